// One device: its history with the anomalies marked, the forecast going on from it, and why.

import { address, badge, clock, counted, fill, h, number, quoted, section, span, time, why, zone } from "./format.js";
import { breachList, incidentList } from "./incidents.js";
import { draw } from "./plot.js";

/** @typedef {import("../api-server/src/documents.ts").DevicePage} DevicePage */

const HOURS = [3, 12, 24, 72, 168];
const LISTED = 8;

/**
 * @param {string} id
 * @param {URLSearchParams} options
 * @returns {import("./app.js").Page}
 */
export function devicePage(id, options) {
  const asked = options.get("field");
  const hours = Number(options.get("hours")) || 24;
  const query = new URLSearchParams({ ...(asked && { field: asked }), hours: String(hours) });
  const head = h("div", { class: "head" });
  const picture = h("div", { class: "picture" });
  const told = h("div", {});
  const rest = h("div", { class: "page" });
  const controls = h("form", { class: "controls" });
  const element = h(
    "div",
    { class: "page" },
    head,
    h("section", { class: "panel" }, controls, picture, told),
    rest,
  );
  /** @type {ReturnType<typeof draw> | undefined} */
  let plot;

  /** @param {DevicePage} found @param {import("./app.js").Act} act */
  function show(found, act) {
    const { device, field } = found;
    fill(head, ...heading(found));
    if (!controls.firstChild) fill(controls, ...pickers(id, found.fields, field, hours));
    if (found.history.length === 0) {
      plot?.destroy();
      plot = undefined;
      fill(picture, nothing(id, field, hours));
    } else {
      plot ??= draw(picture);
      plot.show(found);
    }
    fill(told, ...sentences(found));
    fill(
      rest,
      found.breaches.length > 0 && section("Foretold", breachList(found.breaches)),
      section("Incidents", incidentList(found.incidents, false, found.may_act && act)),
      section(`Anomalies of the last ${span(hours * 3600)}`, anomalies(found)),
    );
    return { title: device.name, scanned: device.scanned_at };
  }
  const source = `/devices/${encodeURIComponent(id)}?${query}`;
  return {
    title: "Device",
    element,
    show: async ({ get, act }) => show(await get(source), act),
    leave: () => plot?.destroy(),
  };
}

/** @param {DevicePage} found */
function heading({ device }) {
  const facts = [
    ["Last reading", time(device.last_reading_at)],
    ["Scanned", time(device.scanned_at)],
    ["Anomalies and incidents known from", time(device.scanned_from)],
    ["Forest trained", time(device.forest_trained_at)],
    ["Forecasts", number(device.forecast_models)],
  ];
  return [
    h("p", { class: "crumb" }, h("a", { href: "#/devices" }, "← Devices")),
    h("h1", {}, device.name, " ", badge(device.status)),
    device.device_id !== device.name && h("p", { class: "muted id" }, device.device_id),
    h("dl", { class: "facts" }, ...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    device.error && h("p", { class: "notice" }, `The last scan says: ${device.error}`),
  ];
}

/** @param {string} id @param {string[]} fields @param {string} field @param {number} hours */
function pickers(id, fields, field, hours) {
  const known = fields.includes(field) ? fields : [field, ...fields];
  /** @param {string} name @param {[string | number, string][]} choices @param {string | number} chosen */
  const picker = (name, choices, chosen) => {
    const select = h(
      "select",
      { name, id: name },
      ...choices.map(([value, text]) => h("option", { value, selected: value === chosen }, text)),
    );
    select.addEventListener("change", () => {
      const form = /** @type {HTMLFormElement} */ (select.form);
      const chosen = new URLSearchParams(/** @type {any} */ (new FormData(form)));
      location.hash = `${address(id)}?${chosen}`;
    });
    return h("label", {}, name === "field" ? "Metric " : "Range ", select);
  };
  const ranges = HOURS.includes(hours) ? HOURS : [...HOURS, hours].sort((a, b) => a - b);
  return [
    picker("field", known.map((one) => [one, one]), field),
    picker("hours", ranges.map((one) => [one, span(one * 3600)]), hours),
  ];
}

/** @param {string} id @param {string} field @param {number} hours */
function nothing(id, field, hours) {
  const wider = HOURS.find((one) => one > hours);
  const query = new URLSearchParams({ field, hours: String(wider) });
  return h(
    "div",
    { class: "empty" },
    h("p", {}, `No reading of ${field} in the last ${span(hours * 3600)}.`),
    wider && h("p", {}, h("a", { href: `${address(id)}?${query}` }, `Look at the last ${span(wider * 3600)}`)),
  );
}

/** What the picture shows, in words and figures. @param {DevicePage} found */
function sentences(found) {
  const { history, forecast, anomalies } = found;
  const percent = found.unit === "%";
  const last = history.at(-1);
  const told = [];
  if (last) {
    const critical = anomalies.filter((one) => one.severity === "critical").length;
    told.push(
      h(
        "p",
        { id: "latest" },
        h("strong", {}, number(last.value, percent)),
        ` at ${clock(last.timestamp)}; `,
        counted(anomalies.length, "anomaly", "anomalies"),
        ` (${critical} critical) in ${counted(history.length, "reading")}. `,
        h("span", { class: "muted" }, `Times in ${zone}.`),
      ),
    );
  }
  if (forecast.length === 0) {
    told.push(h("p", { class: "muted" }, "No forecast of this metric: ", h("code", {}, `SELECT ml_train_lstm(${quoted(found.device.device_id)}, ${quoted(found.field)});`)));
    return told;
  }
  const level = Math.round((found.forecast_level ?? 0) * 1000) / 10;
  const names = ["Time", "Forecast", `${level} % between`];
  told.push(
    h(
      "details",
      {},
      h("summary", {}, `Forecast until ${clock(/** @type {any} */ (forecast.at(-1)).timestamp)}, in figures`),
      h(
        "table",
        { id: "forecast" },
        h("thead", {}, h("tr", {}, ...names.map((name) => h("th", { scope: "col" }, name)))),
        h(
          "tbody",
          {},
          ...forecast.map((step) =>
            h(
              "tr",
              {},
              h("th", { scope: "row" }, time(step.timestamp, clock)),
              h("td", {}, number(step.predicted_value, percent)),
              h("td", {}, `${number(step.confidence_lower, percent)} and ${number(step.confidence_upper, percent)}`),
            ),
          ),
        ),
      ),
    ),
  );
  return told;
}

/** @param {DevicePage} found */
function anomalies(found) {
  if (found.anomalies.length === 0) return h("p", { class: "muted" }, "None.");
  const rows = (/** @type {DevicePage["anomalies"]} */ some) =>
    h(
      "ul",
      { class: "events" },
      ...some.map((one) =>
        h(
          "li",
          { class: "anomaly" },
          badge(one.severity),
          h("span", {}, time(one.timestamp, clock), " ", h("span", { class: "muted" }, why(one.reasons).join(" · "))),
        ),
      ),
    );
  const more = found.anomalies.slice(LISTED);
  return h(
    "div",
    {},
    rows(found.anomalies.slice(0, LISTED)),
    more.length > 0 && h("details", {}, h("summary", {}, counted(more.length, "earlier one")), rows(more)),
  );
}

