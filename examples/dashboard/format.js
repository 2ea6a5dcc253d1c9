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

/** @param {string} title @param {...Child} content */
export function section(title, ...content) {
  return h("section", { class: "panel" }, h("h2", {}, title), ...content);
}

/** The page of a device. @param {string} id */
export function address(id) {
  return `#/device/${encodeURIComponent(id)}`;
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

const SIGNS = { critical: "◆", warning: "▲", failing: "✕", silent: "◌", untrained: "○", ok: "●" };

/** A status as a sign and a word: colour alone tells not everybody. @param {string} status */
export function badge(status) {
  const sign = SIGNS[/** @type {keyof typeof SIGNS} */ (status)] ?? "●";
  return h("span", { class: `badge ${status}` }, h("span", { "aria-hidden": "true" }, sign), ` ${status}`);
}
