// The fleet: how it is, each device, what is foretold and what happened in the last day.

import { address, ago, badge, clock, counted, fill, h, number, span, time } from "./format.js";

/** @typedef {import("../api-server/src/documents.ts").Fleet} Fleet */
/** @typedef {import("../api-server/src/documents.ts").Incident} Incident */
/** @typedef {import("../api-server/src/documents.ts").Breach} Breach */

const LISTED = 10;

/** @returns {import("./app.js").Page} */
export function fleetPage() {
  const element = h("div", { class: "page" });
  return { title: "Fleet", source: "/fleet", element, show: (found) => show(element, found) };
}

/** @param {HTMLElement} element @param {Fleet} fleet */
function show(element, fleet) {
  const { health, devices, breaches } = fleet;
  const open = health.open_incidents;
  fill(
    element,
    h("h1", {}, "Fleet"),
    devices.length === 0 ? empty() : tiles(health),
    breaches.length > 0 && section("Foretold", breachList(breaches)),
    devices.length > 0 && section("Devices", deviceTable(devices)),
    devices.length > 0 && section("Incidents of the last day", incidentList(fleet.incidents, true)),
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
    ["Open incidents", health.open_incidents, `${state.critical} critical`, health.open_incidents ? "bad" : ""],
    ["Anomalies, 24 h", health.anomalies_24h, `${health.critical_24h} critical`, ""],
    ["Drifted", health.drifted, "from their training", health.drifted ? "odd" : ""],
    ["Silent", health.silent, "for an hour", health.silent ? "odd" : ""],
    ["Failing", health.failing, "last scan", health.failing ? "odd" : ""],
    ["Untrained", health.without_model, "no forest", ""],
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
  const names = ["Device", "Status", "Incidents open", "Anomalies, 24 h", "Last reading", "Oldest model", "Drift"];
  const rows = devices.map((device) => {
    const cells = [
      nameAndId(device),
      badge(device.status),
      number(device.open_incidents),
      number(device.anomalies_24h),
      time(device.last_reading_at),
      time(device.oldest_model_at, (moment) => span((Date.now() - new Date(moment).getTime()) / 1000)),
      device.drifted_metrics.join(", ") || "–",
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

/** @param {Incident[]} incidents @param {boolean} named whether to say of which device */
export function incidentList(incidents, named) {
  if (incidents.length === 0) return h("p", { class: "muted" }, "None in the last day.");
  const list = (/** @type {Incident[]} */ some) => h("ul", { class: "events" }, ...some.map((one) => incident(one, named)));
  const more = incidents.slice(LISTED);
  return h(
    "div",
    {},
    list(incidents.slice(0, LISTED)),
    more.length > 0 && h("details", {}, h("summary", {}, `${counted(more.length, "earlier one")}`), list(more)),
  );
}

/** @param {Incident} one @param {boolean} named */
function incident(one, named) {
  const lasted = (new Date(one.ended_at).getTime() - new Date(one.started_at).getTime()) / 1000;
  return h(
    "li",
    { class: "incident" },
    badge(one.severity),
    h(
      "span",
      {},
      named && deviceLink(one, `incident-${one.started_at}`),
      named && " ",
      h("strong", {}, one.leading_metric ?? "several metrics"),
      one.open ? " since " : " from ",
      time(one.started_at, clock),
      one.open ? ", still open" : `, for ${span(lasted)}`,
      h("span", { class: "muted" }, ` · ${counted(one.readings, "reading")}, worst score ${one.worst_score.toFixed(3)}`),
    ),
  );
}
