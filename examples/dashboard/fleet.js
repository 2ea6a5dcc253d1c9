// The fleet: how it is, its incidents, each device and what is foretold.

import { address, ago, badge, clock, counted, fill, h, number, span, time } from "./format.js";

/** @typedef {import("../api-server/src/documents.ts").Fleet} Fleet */
/** @typedef {import("../api-server/src/documents.ts").Incident} Incident */
/** @typedef {import("../api-server/src/documents.ts").Breach} Breach */

const LISTED = 10;

/** @returns {import("./app.js").Page} */
export function fleetPage() {
  const element = h("div", { class: "page" });
  return { title: "Fleet", source: "/fleet", element, show: (found, act) => show(element, found, act) };
}

/** @param {HTMLElement} element @param {Fleet} fleet @param {import("./app.js").Act} act */
function show(element, fleet, act) {
  const { health, devices, breaches } = fleet;
  const open = health.open_incidents;
  fill(
    element,
    h("h1", {}, "Fleet"),
    devices.length === 0 ? empty() : tiles(health),
    devices.length > 0 && section("Incidents", incidentList(fleet.incidents, true, fleet.may_act && act)),
    breaches.length > 0 && section("Foretold", breachList(breaches)),
    devices.length > 0 && section("Devices", deviceTable(devices)),
  );
  return { title: open > 0 ? `(${open}) Fleet` : "Fleet", scanned: health.oldest_scan_at };
}

function empty() {
  return h(
    "section",
    { class: "panel empty" },
    h("h2", {}, "No device yet"),
    h("p", {}, "A device is shown once it has a model or was scanned. In psql:"),
    h("pre", {}, h("code", {}, "CALL ml_retrain();\nCALL ml_scan();")),
  );
}

/** @param {Fleet["health"]} health */
function tiles(health) {
  const { health: state } = health;
  /** @type {[string, string | number | Node, string, string][]} */
  const figures = [
    ["Devices", health.totalDevices, `${state.healthy} healthy`, ""],
    ["Open incidents", health.open_incidents, `${health.incidents_7d} in 7 days`, health.open_incidents ? "odd" : ""],
    ["Critical", state.critical, "with such an incident", state.critical ? "bad" : ""],
    ["Failing", health.failing, "last scan", health.failing ? "odd" : ""],
    ["Warning", health.warning, "incident or forecast", health.warning ? "odd" : ""],
    ["Silent", health.silent, "no reading", health.silent ? "odd" : ""],
    ["Untrained", health.untrained, "no forest", ""],
    ["Anomalies, 24 h", health.anomalies_24h, `${health.critical_24h} critical`, ""],
    ["Last scan", time(health.oldest_scan_at), `${counted(health.trainings_24h, "training")} in 24 h`, ""],
  ];
  return h(
    "dl",
    { class: "tiles" },
    ...figures.map(([name, value, more, kind]) =>
      h("div", { class: `tile ${kind}` }, h("dt", {}, name), h("dd", {}, value), h("dd", { class: "muted" }, more)),
    ),
  );
}

/** @param {string} title @param {...Node} content */
export function section(title, ...content) {
  return h("section", { class: "panel" }, h("h2", {}, title), ...content);
}

/** @param {{ device_uuid: string, device_id: string, name: string }} device @param {string} place */
function deviceLink({ device_uuid, device_id, name }, place) {
  return h("a", { href: address(device_id), id: `${place}-${device_uuid}` }, name);
}

/** The link to a device, and under its name its id. @param {Fleet["devices"][number]} device */
function nameAndId(device) {
  const id = device.device_id !== device.name && h("div", { class: "muted id" }, device.device_id);
  return h("div", {}, deviceLink(device, "device"), id);
}

/** @param {Fleet["devices"]} devices */
function deviceTable(devices) {
  const names = ["Device", "Status", "Incidents open", "Anomalies, 24 h", "Last reading", "Oldest model"];
  const rows = devices.map((device) => {
    const cells = [
      nameAndId(device),
      badge(device.status),
      number(device.open_incidents),
      number(device.anomalies_24h),
      time(device.last_reading_at),
      time(device.oldest_model_at, (moment) => span((Date.now() - new Date(moment).getTime()) / 1000)),
    ];
    return h("tr", {}, ...cells.map((cell, i) => h(i ? "td" : "th", i ? { "data-name": names[i] } : { scope: "row" }, cell)));
  });
  return h(
    "table",
    { class: "devices" },
    h("thead", {}, h("tr", {}, ...names.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, ...rows),
  );
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
