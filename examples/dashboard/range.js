// Which span of time is shown: in the address, and how to take another.

import { address, clock, h, span } from "./format.js";

/** @typedef {import("../api-server/src/documents.ts").DevicePage} DevicePage */
/**
 * What of a device is shown: the last hours, or from when to when.
 * @typedef {object} View
 * @property {string} [field]
 * @property {number} [hours]
 * @property {Date} [from]
 * @property {Date} [to]
 */

const HOURS = [6, 24, 168, 720];
const USUAL = 24;
const SECOND = 1000;

/** @param {URLSearchParams} query @returns {View} */
export function viewOf(query) {
  const field = query.get("field") ?? undefined;
  const [from, to] = ["from", "to"].map((name) => new Date(query.get(name) ?? ""));
  if (from && to && from < to) return { field, from, to };
  const hours = Math.floor(Number(query.get("hours")));
  return { field, hours: hours >= 1 ? hours : USUAL };
}

/** As the server takes it. @param {View} view */
export function spanOf({ hours, from, to }) {
  return from && to ? `from=${iso(from)}&to=${iso(to)}` : `hours=${hours}`;
}

/** Its address. @param {string} id @param {View} view */
export function link(id, view) {
  return `${address(id)}?${view.field === undefined ? "" : `field=${encodeURIComponent(view.field)}&`}${spanOf(view)}`;
}

/** @param {Date} moment */
function iso(moment) {
  return `${new Date(Math.round(moment.getTime() / SECOND) * SECOND).toISOString().slice(0, 19)}Z`;
}

/**
 * @param {string} id
 * @param {View} view
 * @param {DevicePage} page
 * @param {() => { name: string, text: string } | undefined} csv the table of what is shown, and what it is of
 */
export function controls(id, view, page, csv) {
  const [from, to] = [new Date(page.from).getTime(), new Date(page.to).getTime()];
  const length = to - from;
  const hours = HOURS.includes(view.hours ?? USUAL) ? HOURS : [...HOURS, view.hours ?? USUAL].sort((a, b) => a - b);
  const choices = hours.map((one) =>
    h(
      "a",
      { href: link(id, { field: view.field, hours: one }), id: `range-${one}`, "aria-current": one === view.hours && "true", title: `The last ${span(one * 3600)}, until now` },
      span(one * 3600),
    ),
  );
  /** @param {string} name @param {string} sign @param {string} said @param {number} begin @param {number} end */
  const move = (name, sign, said, begin, end) => {
    const button = h("button", { type: "button", id: name, title: said, "aria-label": said }, sign);
    button.addEventListener("click", () => {
      location.hash = link(id, { field: view.field, from: new Date(begin), to: new Date(end) });
    });
    return button;
  };
  const now = new Date(page.timestamp).getTime();
  return [
    h("nav", { class: "ranges", "aria-label": "Range" }, ...choices),
    h(
      "div",
      { class: "moves", role: "group", "aria-label": "Move and zoom" },
      move("earlier", "←", "Earlier", from - length / 2, to - length / 2),
      move("later", "→", "Later", Math.min(from + length / 2, now - length / 2), Math.min(to + length / 2, now + length / 2)),
      move("in", "+", "Closer", from + length / 4, to - length / 4),
      move("out", "−", "Wider", from - length / 2, Math.min(to + length / 2, Math.max(to, now))),
    ),
    fromTo(id, view, from, to),
    download(page, csv),
    h("p", { class: "muted hint" }, "Drag across the picture to come closer; Shift and drag moves it, Ctrl and wheel zooms."),
  ];
}

/** @param {string} id @param {View} view @param {number} from @param {number} to */
function fromTo(id, view, from, to) {
  /** @param {string} name @param {number} moment */
  const input = (name, moment) => {
    const here = new Date(moment - new Date(moment).getTimezoneOffset() * 60 * SECOND);
    return h("input", { type: "datetime-local", name, id: name, required: true, value: here.toISOString().slice(0, 16) });
  };
  const [begin, end] = [input("from", from), input("to", to)];
  const form = h("form", { class: "from-to" }, h("label", {}, "From ", begin), h("label", {}, "to ", end), h("button", {}, "Show"));
  const check = () => end.setCustomValidity(begin.value < end.value ? "" : "The end has to be after the begin.");
  for (const one of [begin, end]) one.addEventListener("input", check);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = link(id, { field: view.field, from: new Date(begin.value), to: new Date(end.value) });
  });
  const summary = view.hours ? "From … to …" : `${clock(from)} to ${clock(to)}`;
  return h("details", { open: !view.hours }, h("summary", { id: "from-to" }, summary), form);
}

/** @param {DevicePage} page @param {Parameters<typeof controls>[3]} csv */
function download({ device }, csv) {
  const button = h("button", { type: "button", id: "csv", title: "What the large picture shows, as a table" }, "CSV");
  button.addEventListener("click", () => {
    const found = csv();
    if (!found) return;
    const href = URL.createObjectURL(new Blob([found.text], { type: "text/csv" }));
    const name = `${device.name} ${found.name}`.replaceAll(/[^\p{L}\p{N}.-]+/gu, "_");
    h("a", { href, download: `${name}.csv` }).click();
    URL.revokeObjectURL(href);
  });
  return button;
}
