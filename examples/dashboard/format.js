// Words and numbers as a person reads them, and the elements that hold them.

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * Make an element. Text stays text, whatever is in it.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, string | number | boolean | undefined>} attributes
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) element.setAttribute(name, String(value));
  }
  fill(element, ...children);
  return element;
}

/**
 * Put children in place of what an element holds; the focus stays where it was, if that is there.
 * @param {Element} element
 * @param {...Child} children
 */
export function fill(element, ...children) {
  const focused = element.contains(document.activeElement) && document.activeElement?.id;
  const kept = children.filter((child) => child !== null && child !== undefined && child !== false);
  element.replaceChildren(...kept.map((child) => (child instanceof Node ? child : String(child))));
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

/** Of the elements that {@link keep} has made, what they show. @type {WeakMap<Element, string>} */
const shows = new WeakMap();

/**
 * Show items in a list. What has not changed stays as it is, with the focus and what is selected or opened in it.
 * @template T
 * @param {Element} list
 * @param {readonly T[]} items
 * @param {(item: T) => string} key its element's id
 * @param {(item: T, old: HTMLElement | undefined) => HTMLElement} make
 */
export function keep(list, items, key, make) {
  const focused = list.contains(document.activeElement) && document.activeElement?.id;
  const had = new Map([.../** @type {HTMLCollectionOf<HTMLElement>} */ (list.children)].map((one) => [one.id, one]));
  const elements = items.map((item) => {
    const [id, text] = [key(item), JSON.stringify(item)];
    const old = had.get(id);
    if (old && shows.get(old) === text) return old;
    const made = make(item, old);
    made.id = id;
    shows.set(made, text);
    return made;
  });
  const kept = new Set(elements);
  for (const one of [...list.children]) if (!kept.has(/** @type {HTMLElement} */ (one))) one.remove();
  elements.forEach((one, i) => {
    if (list.children[i] !== one) list.insertBefore(one, list.children[i] ?? null);
  });
  if (focused && document.activeElement?.id !== focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

/** @param {string} title @param {...Child} content */
export function section(title, ...content) {
  return h("section", { class: "panel" }, h("h2", {}, title), ...content);
}

/** The page of a device. @param {string} id */
export function address(id) {
  return `#/device/${encodeURIComponent(id)}`;
}

/** The page of devices of that status. @param {string} status */
export function addressOf(status) {
  return `#/devices?status=${status}`;
}

/**
 * The address of a page with one of its parameters changed; null takes it away.
 * @param {string} path @param {URLSearchParams} query @param {Record<string, string | null>} changes
 */
export function changed(path, query, changes) {
  const now = new URLSearchParams(query);
  for (const [name, value] of Object.entries(changes)) value === null ? now.delete(name) : now.set(name, value);
  return `#/${path}${now.size > 0 ? `?${now}` : ""}`;
}

/**
 * Links of which one holds: a filter or an order.
 * @param {string} name
 * @param {{ text: Child, href: string, chosen: boolean, title?: string }[]} links
 */
export function choice(name, links) {
  const id = `choice-${name.toLowerCase()}`;
  return h(
    "div",
    { class: "choice", role: "group", "aria-labelledby": id },
    h("span", { id, class: "muted" }, name),
    ...links.map(({ text, href, chosen, title }, i) =>
      h("a", { href, title, id: `${id}-${i}`, "aria-current": chosen && "true" }, text),
    ),
  );
}

/** A field of text that becomes part of the address. @param {string} path @param {URLSearchParams} query @param {string} placeholder */
export function searching(path, query, placeholder) {
  const input = h("input", { type: "search", id: "search", placeholder, "aria-label": "Search", value: query.get("search") ?? "", maxlength: 200 });
  const form = h("form", { role: "search" }, input, h("button", {}, "Search"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = changed(path, query, { search: input.value.trim() || null });
  });
  return form;
}

/** A text as it stands in a statement. @param {string} text */
export function quoted(text) {
  return `'${text.replaceAll("'", "''")}'`;
}

const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const minute = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hour12: false });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });
export const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

/** @param {string | number | Date} moment */
export function clock(moment) {
  const date = new Date(moment);
  const today = date.toDateString() === new Date().toDateString();
  return today ? minute.format(date) : `${day.format(date)} ${minute.format(date)}`;
}

/** A moment on an axis: the day at midnight, else the time. @param {number} moment */
export function tick(moment) {
  const date = new Date(moment);
  return (date.getHours() || date.getMinutes() ? minute : day).format(date);
}

/** How long ago, or how long until. @param {string | number} moment */
export function ago(moment) {
  const seconds = (Date.now() - new Date(moment).getTime()) / 1000;
  const told = span(Math.abs(seconds));
  if (Math.abs(seconds) < 45) return "just now";
  return seconds > 0 ? `${told} ago` : `in ${told}`;
}

/** @param {number} seconds */
export function span(seconds) {
  if (seconds < 5400) return `${Math.max(1, Math.round(seconds / 60))} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

/**
 * A moment as an element that tells it exactly when it is pointed at.
 * @param {string | null} moment
 * @param {(moment: string) => string} told
 */
export function time(moment, told = ago) {
  if (!moment) return "–";
  const title = full.format(new Date(moment));
  return h("time", { datetime: moment, title, class: told === ago && "ago" }, told(moment));
}

const figure = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const large = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** @param {number | null} value @param {boolean} percent */
export function number(value, percent = false) {
  if (value === null) return "–";
  if (percent) return `${figure.format(value)} %`;
  return (Math.abs(value) >= 10000 ? large : figure).format(value);
}

/** Of a value; more where two that differ by less are to be told apart. */
const DIGITS = 3;
const PREFIXES = ["", "k", "M", "G", "T", "P"];

/** A value with its unit: "30.4 %", "1.5 MB/s", "0.0123". @param {number | null} value @param {string | null} unit */
export function quantity(value, unit, digits = DIGITS) {
  if (value === null) return "–";
  const power = unit?.startsWith("B") ? Math.floor(Math.log10(Math.abs(value) || 1) / 3) : 0;
  const prefix = PREFIXES[Math.max(0, power)] ?? "";
  const scaled = prefix ? value / 1000 ** power : value;
  const maximumSignificantDigits = Math.max(digits, Math.abs(scaled) >= 1000 ? 4 : 0);
  const told = Math.abs(scaled) >= 100_000 ? large.format(scaled) : scaled.toLocaleString("en", { maximumSignificantDigits });
  return unit ? `${told} ${prefix}${unit}` : told;
}

/** @param {number} count @param {string} one @param {string} many */
export function counted(count, one, many = `${one}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

// How many of an anomaly's reasons are told.
const REASONS = 2;

/** Why a reading is an anomaly, in sentences. @param {import("../api-server/src/documents.ts").Reason[]} reasons */
export function why(reasons) {
  return reasons.slice(0, REASONS).map(({ sentence }) => sentence);
}

/** A sentence in lines, where nothing else breaks them. @param {string} sentence */
export function lines(sentence, width = 60) {
  return sentence.split(" ").reduce((/** @type {string[]} */ found, word) => {
    const last = found.at(-1);
    if (last === undefined || last.length + word.length >= width) return [...found, word];
    return [...found.slice(0, -1), `${last} ${word}`];
  }, []);
}

/** Whether a value is at its limit or past it. @param {number | null} value @param {number} limit @param {string} side */
export function isBeyond(value, limit, side) {
  return value !== null && (side === "high" ? value >= limit : value <= limit);
}

/** The head of a table. @param {readonly (readonly [name: string, said?: string])[]} columns */
export function headings(columns) {
  return h("thead", {}, h("tr", {}, ...columns.map(([name, said]) => h("th", { scope: "col", title: said || undefined }, name))));
}

/** An element of a picture. @param {string} name @param {Record<string, string | number>} attributes @param {...Element} children */
export function svg(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  element.append(...children);
  return element;
}

/** How many devices have each status, the worst first. @param {import("../api-server/src/documents.ts").FleetHealth} health */
export function countsOf({ health, failing, warning, silent, learning, untrained }) {
  return { critical: health.critical, failing, warning, silent, learning, untrained, ok: health.healthy };
}

const SIGNS = { critical: "◆", warning: "▲", failing: "✕", silent: "◌", untrained: "○", learning: "◔", ok: "●" };

/** What they mean, where it is pointed at. */
const MEANS = {
  critical: "An incident that comes once in three months or less often, or is far beyond all limits.",
  warning: "An incident, or a limit that the forecast reaches.",
  failing: "The last scan of the device failed.",
  silent: "No reading for longer than the device ever pauses.",
  untrained: "No forest in force: few kinds of trouble are found.",
  learning: "No models of its own yet: what is ordinary on the other devices stands in.",
  ok: "Nothing is wrong that is known of.",
};

/** A status as a sign and a word: colour alone tells not everybody. @param {string} status @param {string} word */
export function badge(status, word = status) {
  const known = /** @type {keyof typeof SIGNS} */ (status);
  return h(
    "span",
    { class: `badge ${status}`, title: MEANS[known] },
    h("span", { "aria-hidden": "true" }, SIGNS[known] ?? "●"),
    ` ${word}`,
  );
}
