// Incidents as sentences, with what can be done about them.

import { address, badge, clock, fill, h, keep, quantity, span, time } from "./format.js";
import { post } from "./server.js";

/** @typedef {import("../api-server/src/documents.ts").Incident} Incident */
/** @typedef {import("../api-server/src/documents.ts").Breach} Breach */
/** @typedef {import("./app.js").Act} Act */

/** Kinds of trouble, as ml_incidents has them, the most specific first. */
export const KINDS = {
  silent: "The device sends nothing for longer than it ever pauses.",
  missing: "A metric is no longer in the readings.",
  junk: "A sensor says what is no measurement.",
  stuck: "A value stands still for longer than it ever does.",
  level: "A value has moved, and stays there.",
  drift: "A value goes slowly where it never is.",
  breach: "A value reaches a limit, or is about to.",
  value: "A single metric where it never is.",
  combination: "Metrics together as they never are, though each alone is not unusual.",
  forecast: "A value is far from what was forecast.",
};

/** @param {{ device_uuid: string, device_id: string, name: string }} device @param {string} place */
function deviceLink({ device_uuid, device_id, name }, place) {
  return h("a", { href: address(device_id), id: `${place}-${device_uuid}` }, name);
}

/** @param {Breach[]} breaches */
export function breachList(breaches) {
  const items = breaches.map((breach) => {
    const low = breach.worst_predicted < breach.limit_value;
    return h(
      "li",
      { class: "breach" },
      badge("warning"),
      h(
        "span",
        {},
        deviceLink(breach, `breach-${breach.field}`),
        ` ${breach.field} is forecast at or ${low ? "below" : "above"} its limit of ${quantity(breach.limit_value, breach.unit)} from `,
        time(breach.breach_at, clock),
        ` (at ${low ? "least" : "most"} ${quantity(breach.worst_predicted, breach.unit)})`,
      ),
    );
  });
  return h("ul", { class: "events" }, ...items);
}

/**
 * Show incidents in a list; those that have not changed stay as they are.
 * @param {Element} list @param {Incident[]} incidents @param {boolean} named @param {Act | false} act
 */
export function showIncidents(list, incidents, named, act) {
  keep(list, incidents, keyOf, (one) => incident(one, named, act));
  return list;
}

/** @param {{ incident_id: number }} one */
const keyOf = ({ incident_id }) => `incident-${incident_id}`;
/** The link to a device, in an incident of it. @param {Incident} one */
const placeOf = (one) => `of-${one.incident_id}`;

/** @param {Incident} one @param {boolean} named @param {Act | false} act */
function incident(one, named, act) {
  return h(
    "li",
    { class: "incident", tabindex: -1 },
    badge(one.severity),
    h(
      "div",
      {},
      named && h("strong", {}, deviceLink(one, placeOf(one))),
      named && ": ",
      one.summary,
      standing(one),
    ),
    ...(act && one.state !== "resolved" ? actions({ ...one, key: `${one.incident_id}`, path: `/incidents/${one.incident_id}` }, act) : []),
  );
}

/** How it stands with an incident, and since when. @param {Incident} one */
function standing(one) {
  return facts(
    kindOf(one),
    h("span", {}, ...stateOf(one)),
    h("span", {}, "began ", time(one.started_at)),
    one.state !== "resolved" && h("span", {}, "last seen ", time(one.ended_at)),
    one.rarity !== null && h("span", { title: "How seldom its like comes on ordinary days." }, `once in ${span(one.rarity * 3600)}`),
    one.note && h("span", { title: "What somebody said of it." }, `“${one.note}”`),
  );
}

/** What is known of trouble, in a line. @param {...(Node | false | null | "")} parts */
export function facts(...parts) {
  return h("div", { class: "muted standing" }, ...parts.filter((part) => part).flatMap((part, i) => (i > 0 ? [" · ", part] : [part])));
}

/** @param {{ kind: string }} trouble */
export function kindOf({ kind }) {
  return h("span", { title: KINDS[/** @type {keyof typeof KINDS} */ (kind)] }, kind);
}

/** @param {Incident} one */
function stateOf(one) {
  const state = h("strong", {}, one.state);
  if (one.state === "open") return [state];
  const [by, at] = one.state === "resolved" ? [one.resolved_by, one.resolved_at] : [one.acknowledged_by, one.acknowledged_at];
  return [state, by ? ` by ${by} at ` : `: ${one.why}, `, time(at, clock)];
}

// ---- what can be done ----------------------------------------------------------------

/**
 * What something is done about: an incident, or many that are one.
 * @typedef {{ key: string, path: string, state: string, note?: string | null }} Target
 */

/** What is being said of them, by their keys. It stays when they are shown anew. @type {Map<string, HTMLElement>} */
const saying = new Map();

/** Buttons, and the place for what they ask. @param {Target} target @param {Act} act @param {string} all which, where it is more than one */
export function actions(target, act, all = "") {
  const { key, state } = target;
  const place = h("div", { class: "saying" }, saying.get(key));
  /** @param {string} does @param {string} name @param {string} title @param {() => HTMLElement} ask */
  const button = (does, name, title, ask) => {
    const made = h("button", { type: "button", id: `${does}-${key}`, title }, name);
    made.addEventListener("click", () => {
      const asked = ask();
      saying.set(key, asked);
      fill(place, asked);
      asked.querySelector("input")?.focus();
    });
    return made;
  };
  const [acknowledge, resolve] = /** @type {const} */ ([`Acknowledge${all}`, `Resolve${all}`]);
  const buttons = h(
    "div",
    { class: "actions" },
    state === "open" &&
      button("acknowledge", acknowledge, "Somebody knows of it. It stays here.", () => form(target, act, "acknowledge", acknowledge)),
    button("resolve", resolve, "It is over, or shall not be told again.", () => form(target, act, "resolve", resolve)),
    !all && button("not-a-fault", "Not a fault", "Shows first what would have kept it quiet.", () => notAFault(target, act)),
  );
  return [buttons, place];
}

/** Nothing more is said of it. @param {Target} target @param {string} does what was to be done */
function leave({ key }, does) {
  saying.get(key)?.remove();
  saying.delete(key);
  const places = [`${does}-${key}`, `incident-${key}`, "main"];
  places.map((id) => document.getElementById(id)).find((place) => place)?.focus();
}

/**
 * Ask for a note, and do it.
 * @param {Target} target @param {Act} act @param {string} does @param {string} name of what is done @param {object} body
 */
function form(target, act, does, name, body = {}) {
  const input = h("input", { id: `note-${target.key}`, value: target.note ?? "", maxlength: 4000, placeholder: "if you like" });
  const [go, cancel] = [h("button", { class: "first" }, name), h("button", { type: "button" }, "Cancel")];
  const made = h("form", { class: "controls" }, h("label", {}, "Note ", input), go, cancel);
  cancel.addEventListener("click", () => leave(target, does));
  made.addEventListener("keydown", (event) => event.key === "Escape" && leave(target, does));
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    const note = input.value.trim();
    go.disabled = true;
    if (await act(`${target.path}/${does}`, note ? { ...body, note } : body)) leave(target, does);
    go.disabled = false;
  });
  return made;
}

/** Say what would have kept it quiet, before it is made. @param {Target} target @param {Act} act */
function notAFault(target, act) {
  const place = h("div", { role: "status" }, h("p", { class: "muted" }, "Looking for what would have kept it quiet …"));
  post(`${target.path}/not-a-fault`, {}).then(
    (/** @type {import("../api-server/src/documents.ts").NotAFault} */ { statement, words }) => {
      const asked = form(target, act, "not-a-fault", statement ? "Make this rule, and resolve" : "Resolve", { apply: true });
      fill(
        place,
        statement ? h("p", {}, h("strong", {}, "This would have kept it quiet. "), words) : h("p", {}, words),
        statement && h("pre", {}, h("code", {}, statement)),
        asked,
      );
      asked.querySelector("input")?.focus();
    },
    (/** @type {Error} */ { message }) => {
      const cancel = h("button", { type: "button" }, "Close");
      cancel.addEventListener("click", () => leave(target, "not-a-fault"));
      fill(place, h("p", {}, message), cancel);
    },
  );
  return place;
}
