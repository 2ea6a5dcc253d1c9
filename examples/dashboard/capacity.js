// Capacity: which limits are reached when, the soonest first.

import { address, clock, counted, fill, h, headings, isBeyond, quantity, span, time } from "./format.js";

/** @typedef {import("../api-server/src/documents.ts").Capacity} Capacity */
/** @typedef {Capacity["capacity"][number]} Reach */

/** As many as the server gives at once. */
const MOST = 1000;
/** The outlook of each, as the device's page has it from so many hours on. */
const HOURS = 168;

/** @returns {import("./app.js").Page} */
export function capacityPage() {
  const element = h("div", { class: "page" });
  return {
    title: "Capacity",
    element,
    async show({ get }) {
      show(element, await get(`/fleet/capacity?limit=${MOST}`));
      return {};
    },
  };
}

/** @param {HTMLElement} element @param {Capacity} found */
function show(element, { capacity, total }) {
  const soon = capacity.filter((one) => one.earliest || isPast(one));
  const reached = [...soon.filter(isPast), ...soon.filter((one) => !isPast(one))];
  const far = capacity.filter((one) => !soon.includes(one) && !one.why_not);
  const unknown = capacity.filter((one) => one.why_not);
  const days = Math.max(0, ...capacity.map((one) => one.days));
  fill(
    element,
    h("h1", {}, "Capacity"),
    h(
      "p",
      { class: "muted" },
      "When each metric reaches its limit if it goes on as in its own past: at the earliest and at the latest for 80 of 100 such cases. Scans look once a day.",
    ),
    total === 0
      ? empty()
      : h(
          "section",
          { class: "panel" },
          h("h2", {}, reached.length > 0 ? `${counted(reached.length, "limit")} within ${counted(days, "day")}` : "Nothing fills up"),
          reached.length > 0 ? reachTable(reached) : h("p", {}, `Of ${counted(total, "limit")} none is reached within ${counted(days, "day")}.`),
        ),
    far.length > 0 && folded(`${counted(far.length, "limit")} not reached within ${counted(days, "day")}`, reachTable(far, false)),
    unknown.length > 0 && folded(`${counted(unknown.length, "limit")} of which it is not known`, h("ul", { class: "plain" }, ...unknown.map(unknownOne))),
    total > capacity.length && h("p", { class: "muted" }, `Those of ${counted(total - capacity.length, "more limit")} are farther away.`),
  );
}

/** @param {Reach} one */
const isPast = (one) => isBeyond(one.value, one.limit_value, one.side);

function empty() {
  return h(
    "section",
    { class: "panel empty" },
    h("h2", {}, "No limit is watched"),
    h("p", {}, "A limit is that of a metric (ml_metric: limit_high, limit_low). A scan looks once a day when each device reaches it. In psql:"),
    h("pre", {}, h("code", {}, "UPDATE ml_metric SET limit_high = 90 WHERE name = 'disk_usage_percent';\nCALL ml_scan();")),
  );
}

/** @param {string} title @param {Node} content */
function folded(title, content) {
  return h("details", { class: "panel" }, h("summary", {}, title), content);
}

/** The page of a device with that metric, a week long: with the outlook. @param {Reach} one */
function deviceLink({ device_id, name, metric, side }) {
  const href = `${address(device_id)}?field=${encodeURIComponent(metric)}&hours=${HOURS}`;
  return h("a", { href, id: `capacity-${device_id}-${metric}-${side}` }, name);
}

const COLUMNS = /** @type {const} */ ([
  ["Device", ""],
  ["Metric", ""],
  ["Now", "The metric's last mean of an hour"],
  ["Limit", "Reaching it is a breach"],
  ["A day", "How far it goes in a day, where it has a steady slope"],
  ["Earliest", "In 10 of 100 cases it comes sooner"],
  ["Probably", "In half of all cases it comes sooner"],
  ["Latest", "In 10 of 100 cases it comes later"],
]);

/** @param {Reach[]} rows @param {boolean} when whether they are reached */
function reachTable(rows, when = true) {
  const columns = COLUMNS.slice(0, when ? undefined : 5);
  const cells = (/** @type {Reach} */ one) => {
    const told = (/** @type {number | null} */ value) => quantity(value, one.unit);
    const not = h("span", { class: "muted" }, `not in ${counted(one.days, "day")}`);
    const moments = isPast(one)
      ? [h("strong", { class: "badge critical" }, "beyond it now"), "–", "–"]
      : [one.earliest, one.probably, one.latest].map((moment) => (moment ? until(moment) : not.cloneNode(true)));
    const slope = one.slope ? `${one.slope > 0 ? "+" : ""}${told(one.slope)}` : "–";
    return [deviceLink(one), one.metric, told(one.value), `${one.side === "high" ? "" : "down to "}${told(one.limit_value)}`, slope, ...moments].slice(0, columns.length);
  };
  return h(
    "table",
    { class: "limits cards" },
    headings(columns),
    h(
      "tbody",
      {},
      ...rows.map((one) =>
        h("tr", {}, ...cells(one).map((cell, i) => h(i ? "td" : "th", i ? { "data-name": columns[i]?.[0] } : { scope: "row" }, cell))),
      ),
    ),
  );
}

/** @param {string} moment */
function until(moment) {
  const seconds = (new Date(moment).getTime() - Date.now()) / 1000;
  return h("span", {}, time(moment, clock), " ", h("span", { class: "muted" }, seconds > 0 ? `in ${span(seconds)}` : "passed"));
}

/** @param {Reach} one */
function unknownOne(one) {
  return h("li", {}, deviceLink(one), ` ${one.metric}: ${one.why_not}`);
}
