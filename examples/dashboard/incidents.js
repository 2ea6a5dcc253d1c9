// Incidents as sentences, with what can be done about them.

import { address, ago, badge, clock, counted, h, number, time } from "./format.js";

/** @typedef {import("../api-server/src/documents.ts").Incident} Incident */
/** @typedef {import("../api-server/src/documents.ts").Breach} Breach */

const LISTED = 10;

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
        ` ${breach.field} is forecast at or ${low ? "below" : "above"} its limit of ${number(breach.limit_value)} `,
        time(breach.breach_at, (moment) => `from ${clock(moment)}, ${ago(moment)}`),
        ` (at ${low ? "least" : "most"} ${number(breach.worst_predicted)})`,
      ),
    );
  });
  return h("ul", { class: "events" }, ...items);
}

/**
 * @param {Incident[]} incidents
 * @param {boolean} named whether to say of which device
 * @param {import("./app.js").Act | false} act what buttons do; without it there are none
 */
export function incidentList(incidents, named, act) {
  if (incidents.length === 0) return h("p", { class: "muted" }, "None is open, and none was in the last day.");
  const list = (/** @type {Incident[]} */ some) => h("ul", { class: "events" }, ...some.map((one) => incident(one, named, act)));
  const more = incidents.slice(LISTED);
  return h(
    "div",
    {},
    list(incidents.slice(0, LISTED)),
    more.length > 0 && h("details", {}, h("summary", {}, `${counted(more.length, "earlier one")}`), list(more)),
  );
}

/** @param {Incident} one @param {boolean} named @param {import("./app.js").Act | false} act */
function incident(one, named, act) {
  const key = `incident-${one.incident_id}`;
  /** @param {"acknowledge" | "resolve"} path @param {string} name */
  const button = (path, name) => {
    const made = h("button", { type: "button", id: `${path}-${one.incident_id}` }, name);
    made.addEventListener("click", async () => {
      const note = prompt(`${name} “${one.summary}”\n\nA note, if you like:`, one.note ?? "");
      if (note === null || !act) return;
      await act(`/incidents/${one.incident_id}/${path}`, note.trim() ? { note } : {});
      document.getElementById(key)?.focus(); // the button may be gone
    });
    return made;
  };
  return h(
    "li",
    { class: "incident", id: key, tabindex: -1 },
    badge(one.severity),
    h(
      "div",
      {},
      named && deviceLink(one, key),
      named && ": ",
      one.summary,
      h(
        "div",
        { class: "standing" },
        h("span", { class: "muted" }, ...standing(one), one.note && ` · “${one.note}”`),
        act && one.state === "open" && button("acknowledge", "Acknowledge"),
        act && one.state !== "resolved" && button("resolve", "Resolve"),
      ),
    ),
  );
}

/** How it stands with an incident, and since when. @param {Incident} one */
function standing(one) {
  const began = time(one.started_at, clock);
  const state = h("strong", {}, one.state);
  if (one.state === "resolved") {
    const how = one.resolved_by ? [" by ", one.resolved_by, " at ", time(one.resolved_at, clock)] : [`: ${one.why}`];
    return [state, ...how, " · began ", began];
  }
  const known = one.acknowledged_at ? [" by ", one.acknowledged_by, " at ", time(one.acknowledged_at, clock)] : [];
  return [state, ...known, " · since ", began];
}
