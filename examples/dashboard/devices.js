// All devices: a page of them, found by name and status, in any order.

import { address, badge, changed, choice, counted, countsOf, fill, h, headings, keep, quantity, searching, svg, time } from "./format.js";
import { paged } from "./paging.js";
import { get } from "./server.js";

/** @typedef {import("../api-server/src/documents.ts").Device} Device */
/** @typedef {import("../api-server/src/documents.ts").Sparks["sparks"][number]} Spark */
/** @typedef {import("../api-server/src/documents.ts").FleetHealth} Health */

/** Of devices, and of those whose lines are asked for at a time. */
const PAGE = 50;
const STATUSES = /** @type {const} */ (["critical", "failing", "warning", "silent", "learning", "untrained", "ok"]);
/** What is of interest first, and the other way round. @type {Record<string, [name: string, first: string, then: string]>} */
const SORTS = {
  status: ["status", "status", "-status"],
  name: ["name", "name", "-name"],
  last_reading: ["last reading", "-last_reading", "last_reading"],
  open_incidents: ["open incidents", "-open_incidents", "open_incidents"],
};

/** @param {URLSearchParams} query @returns {import("./app.js").Page} */
export function devicesPage(query) {
  const asked = new URLSearchParams(query);
  if (!asked.has("sort")) asked.set("sort", "status");
  const found = h("p", { class: "figures", role: "status", title: "On all pages." });
  const statuses = h("div", {}, byStatus(query));
  const controls = h("div", { class: "filters" }, statuses, order(query), searching("devices", query, "name or id"));
  const body = h("tbody");
  const table = h(
    "table",
    { class: "devices cards" },
    h("caption", { class: "unseen" }, "Devices"),
    headings([["Device"], ["Status"], ["Last 6 h"], ["Open incidents"], ["Last reading"]]),
    body,
  );
  /** @type {Device[]} */
  let listed = [];
  /** The line of each device, and the reading up to which it goes. @type {Map<string, { spark: Spark | undefined, until: string | null }>} */
  const lines = new Map();
  const tell = () => {
    const rows = listed.map((device) => ({ device, spark: lines.get(device.device_uuid)?.spark }));
    keep(body, rows, ({ device }) => `row-${device.device_uuid}`, row);
  };
  const devices = paged(`/devices?${asked}`, "devices", PAGE, (/** @type {Device[]} */ some, more) => {
    listed = some;
    tell();
    if (more) void draw(get).catch(() => {}); // lines or none: the rest is there
  });
  const panel = h("section", { class: "panel", "aria-label": "Devices" }, table, devices.more);
  const element = h("div", { class: "page" }, h("div", { class: "head" }, h("h1", {}, "Devices"), found), controls, panel);

  /** Draw the lines of those that have reported since. @param {import("./app.js").Server["get"]} ask */
  async function draw(ask) {
    const due = listed.filter((one) => lines.get(one.device_uuid)?.until !== one.last_reading_at);
    for (let i = 0; i < due.length; i += PAGE) {
      const some = due.slice(i, i + PAGE);
      const chosen = new URLSearchParams(some.map((one) => ["device", one.device_uuid]));
      const { sparks } = /** @type {{ sparks: Spark[] }} */ (await ask(`/fleet/sparks?${chosen}`));
      for (const { device_uuid, last_reading_at } of some) {
        const spark = sparks.find((one) => one.device_uuid === device_uuid);
        lines.set(device_uuid, { spark, until: last_reading_at });
      }
      tell();
    }
  }

  return {
    title: "Devices",
    element,
    async show({ get, paint }) {
      const { total } = await devices.refresh(get);
      const told = `${counted(total, "device")}${query.has("search") || query.has("status") ? " of that kind" : ""}`;
      if (found.textContent !== told) found.textContent = told; // it is read out
      paint();
      const health = /** @type {Health} */ (await get("/fleet/health"));
      fill(statuses, byStatus(query, health));
      table.hidden = total === 0;
      if (total === 0) fill(panel, health.totalDevices === 0 ? noDevice() : nothing());
      else if (!panel.contains(table)) fill(panel, table, devices.more);
      await draw(get).catch((/** @type {Error} */ error) => console.warn("no lines:", error.message));
      return { scanned: health.oldest_scan_at };
    },
  };
}

export function noDevice() {
  return h(
    "div",
    { class: "empty" },
    h("h2", {}, "No device yet"),
    h("p", {}, "A device is known once it has a model or was scanned. In psql:"),
    h("pre", {}, h("code", {}, "CALL ml_retrain();\nCALL ml_scan();")),
  );
}

function nothing() {
  return h("p", {}, "No device is like that. ", h("a", { href: "#/devices" }, "Show all"));
}

/** @param {URLSearchParams} query @param {Health} [health] */
function byStatus(query, health) {
  const chosen = query.get("status");
  const counts = health && countsOf(health);
  return choice("Status", [
    { text: "any", href: changed("devices", query, { status: null }), chosen: chosen === null },
    ...STATUSES.map((one) => ({
      text: badge(one, counts ? `${counts[one].toLocaleString("en")} ${one}` : one),
      href: changed("devices", query, { status: one }),
      chosen: chosen === one,
    })),
  ]);
}

/** @param {URLSearchParams} query */
function order(query) {
  const sort = query.get("sort") ?? "status";
  return choice(
    "Sort by",
    Object.values(SORTS).map(([name, first, then]) => ({
      text: sort === first ? `${name} ↓` : sort === then ? `${name} ↑` : name,
      href: changed("devices", query, { sort: sort === first ? then : first }),
      chosen: sort === first || sort === then,
      title: sort === first ? "The other way round" : undefined,
    })),
  );
}

/** @param {{ device: Device, spark: Spark | undefined }} of */
function row({ device, spark }) {
  const { device_id, name, error, breaches } = device;
  const open = h(
    "span",
    { title: "Incidents that are not resolved." },
    device.open_incidents > 0
      ? h("a", { href: `#/?device=${encodeURIComponent(device_id)}`, id: `open-${device.device_uuid}` }, device.open_incidents)
      : device.open_incidents,
  );
  return h(
    "tr",
    {},
    h(
      "th",
      { scope: "row" },
      h("a", { href: address(device_id), id: `device-${device.device_uuid}` }, name),
      device_id !== name && h("div", { class: "muted id" }, device_id),
    ),
    h(
      "td",
      { class: "how" },
      badge(device.status),
      error && h("div", { class: "muted id" }, error),
      breaches > 0 && h("div", { class: "muted", title: "Metrics that are forecast to reach a limit." }, `${counted(breaches, "limit")} ahead`),
    ),
    h("td", { class: "line" }, spark && spark.points.length > 1 && line(spark)),
    h("td", { class: "open", "data-name": "open" }, open),
    h("td", { class: "last" }, time(device.last_reading_at)),
  );
}

const [WIDTH, HEIGHT] = [120, 26];

/** @param {Spark} spark */
function line({ metric, unit, last_value, points }) {
  const times = points.map((one) => Date.parse(one.timestamp));
  const values = points.map((one) => one.value);
  const [first, last] = [Math.min(...times), Math.max(...times)];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const now = quantity(last_value, unit);
  const place = values.map((value, i) => {
    const x = ((/** @type {number} */ (times[i]) - first) / (last - first || 1)) * WIDTH;
    const y = HEIGHT - 2 - ((value - low) / (high - low || 1)) * (HEIGHT - 4);
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  });
  const box = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "spark", "aria-hidden": "true" };
  const title = `${metric} in the last 6 hours: between ${quantity(low, unit)} and ${quantity(high, unit)}, at last ${now}`;
  return h("span", { class: "spark-of", title }, svg("svg", box, svg("polyline", { points: place.join(" ") })), h("span", {}, now, h("span", { class: "muted id" }, metric)));
}
