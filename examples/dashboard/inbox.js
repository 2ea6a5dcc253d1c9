// The inbox: what is open, the newest trouble first, and what many devices have at once as one.

import { noDevice } from "./devices.js";
import { addressOf, badge, changed, choice, counted, countsOf, fill, h, keep, searching, section, time } from "./format.js";
import { actions, facts, kindOf, KINDS, showIncidents } from "./incidents.js";
import { paged } from "./paging.js";

/** @typedef {import("../api-server/src/documents.ts").FleetHealth} Health */
/** @typedef {import("../api-server/src/documents.ts").FleetIncidents["incidents"][number]} Flood */
/** @typedef {import("./app.js").Server} Server */

const PAGE = 25;
/** Of what is over, beside what is open. */
const OVER = 10;
const DAY = 86_400_000;

/** States as the address has them. @type {Record<string, [name: string, states: string[]]>} */
const STATES = {
  "": ["not resolved", ["open", "acknowledged"]],
  open: ["open", ["open"]],
  acknowledged: ["acknowledged", ["acknowledged"]],
  resolved: ["resolved", ["resolved"]],
  all: ["all", []],
};

/** @param {URLSearchParams} query @returns {import("./app.js").Page} */
export function inboxPage(query) {
  const { state = "", ...narrower } = Object.fromEntries(query);
  const [, states] = STATES[state] ?? ["", []];
  const chosen = new URLSearchParams([...states.map((one) => ["state", one]), ...Object.entries(narrower)]);
  // Where something narrower is asked for, each is shown by itself.
  const folded = Object.keys(narrower).every((name) => name === "kind") && (state === "" || state === "open");

  const figures = h("p", { class: "figures" });
  const floods = h("ul", { class: "events" });
  const list = h("ul", { class: "events" });
  const nothing = h("div", {});
  const over = h("div", {});
  /** @type {Server} */
  let server;
  let mayAct = false;
  const act = /** @type {import("./app.js").Act} */ ((path, body) => server.act(path, body));
  /** @param {Element} place */
  const showIn = (place) => (/** @type {import("./incidents.js").Incident[]} */ some) =>
    void showIncidents(place, some, true, mayAct && act);
  const incidents = paged(`/incidents?${chosen}${folded ? "&folded=true" : ""}`, "incidents", PAGE, showIn(list));
  const element = h(
    "div",
    { class: "page" },
    h("div", { class: "head" }, h("h1", {}, "Inbox"), figures),
    filters(query, state),
    h("section", { class: "panel", "aria-label": "Incidents" }, nothing, floods, list, incidents.more),
    over,
  );
  /** What many have at once, each with the list that it opens. @type {Map<string, ReturnType<typeof flood>>} */
  const opened = new Map();

  /** @param {Server} given */
  async function show(given) {
    server = given;
    const { get, paint } = server;
    const health = /** @type {Promise<Health>} */ (get("/fleet/health"));
    health.catch(() => {}); // it is waited for below
    const [page, many] = await Promise.all([
      incidents.refresh(async (path) => {
        const found = await get(path);
        mayAct = found.may_act;
        return found;
      }),
      folded ? get("/fleet/incidents") : { incidents: [] },
    ]);
    const shown = /** @type {Flood[]} */ (many.incidents).filter(
      (one) => states.includes(one.state) && (!query.has("kind") || query.get("kind") === one.kind),
    );
    keep(floods, shown, (one) => `incident-${keyOf(one)}`, (one) => {
      const key = keyOf(one);
      const had = opened.get(key) ?? flood(chosen, one, showIn, () => server);
      opened.set(key, had);
      return had.tell(one, mayAct && act);
    });
    await Promise.all(shown.map((one) => opened.get(keyOf(one))?.refresh()));
    const some = page.incidents.length + shown.length > 0;
    if (some) paint();
    const known = await health;
    fill(figures, ...inFigures(known));
    fill(nothing, !some && (query.size > 0 ? h("p", {}, "No incident is like that. ", h("a", { href: "#/" }, "Show all that are open")) : allIsWell(known)));
    if (query.size === 0 && known.totalDevices > 0) await showOver(over, get, showIn);
    const open = known.open_incidents;
    return { title: open > 0 ? `(${open}) Inbox` : "Inbox", scanned: known.oldest_scan_at };
  }
  return { title: "Inbox", element, show };
}

// ---- what many have at once ----------------------------------------------------------

/** @param {Flood} one */
const keyOf = (one) => `flood-${one.incident_ids[0]}`;

/**
 * A line that opens.
 * @param {URLSearchParams} chosen @param {Flood} first
 * @param {(place: Element) => (some: any[]) => void} showIn @param {() => Server} server
 */
function flood(chosen, first, showIn, server) {
  const number = first.incident_ids[0];
  const list = h("ul", { class: "events" });
  const within = paged(`/incidents?${chosen}&fleet=${number}`, "incidents", PAGE, showIn(list));
  const details = h("details", {}, h("summary", { id: `${keyOf(first)}-all` }, "Each device"), list, within.more);
  const element = h("li", { class: "incident", tabindex: -1 });
  const refresh = async () => {
    if (details.open) await within.refresh(server().get);
  };
  details.addEventListener("toggle", () => void refresh());
  return {
    refresh,
    /** @param {Flood} one @param {import("./app.js").Act | false} act */
    tell(one, act) {
      const [began, seen] = [h("span", {}, "began ", time(one.started_at)), h("span", {}, "last seen ", time(one.ended_at))];
      fill(
        element,
        badge(one.severity),
        h("div", {}, one.summary, facts(kindOf(one), h("strong", {}, one.state), began, seen)),
        ...(act ? actions({ key: keyOf(one), path: `/fleet/incidents/${number}`, state: one.state }, act, " all") : []),
        details,
      );
      return element;
    },
  };
}

// ---- what is over --------------------------------------------------------------------

/** Beside what is open: who comes on duty sees what the night has brought. @param {Element} place @param {Server["get"]} get @param {(place: Element) => (some: any[]) => void} showIn */
async function showOver(place, get, showIn) {
  const since = new Date(Date.now() - DAY).toISOString();
  const { incidents, next } = await get(`/incidents?state=resolved&from=${since}&limit=${OVER}`);
  const list = place.querySelector("ul") ?? h("ul", { class: "events" });
  showIn(list)(incidents);
  if (incidents.length === 0) return fill(place);
  if (!place.firstChild) fill(place, section("Over within a day", list, h("p", {}, h("a", { href: "#/?state=resolved", id: "all-over" }))));
  const link = /** @type {Element} */ (place.querySelector("#all-over"));
  link.textContent = next ? "These are the latest. All that are resolved" : "All that are resolved";
}

// ---- figures and filters -------------------------------------------------------------

/** How the fleet is, in a line. @param {Health} health */
function inFigures(health) {
  if (health.totalDevices === 0) return [];
  const counts = Object.entries(countsOf(health)).filter(([, count]) => count > 0);
  return [
    h("a", { href: "#/devices", id: "figure-devices", title: "That have a model or were scanned, without retired ones." }, counted(health.totalDevices, "device")),
    ": ",
    ...counts.flatMap(([status, count], i) => [
      i > 0 && ", ",
      h("a", { href: addressOf(status), id: `figure-${status}` }, badge(status, `${count.toLocaleString("en")} ${status}`)),
    ]),
    ". ",
    h("span", { title: "Incidents that opened within seven days." }, `${counted(health.incidents_7d, "incident")} in 7 days`),
    ", ",
    h(
      "span",
      { title: "As many as the settings let through in a week in which nothing is wrong (false_alarms_per_week, of each device)." },
      `about ${Math.round(health.expected_7d).toLocaleString("en")} to be expected`,
    ),
    ".",
  ];
}

/** What it means that nothing is shown. @param {Health} health */
function allIsWell(health) {
  if (health.totalDevices === 0) return noDevice();
  if (health.oldest_scan_at === null) {
    return h(
      "div",
      { class: "empty" },
      h("h2", {}, "Never scanned"),
      h("p", {}, "There are models, and nobody has looked for trouble yet. In psql:"),
      h("pre", {}, h("code", {}, "CALL ml_scan();\nSELECT ml_schedule(); -- from now on")),
    );
  }
  return h(
    "div",
    { class: "empty" },
    h("h2", {}, "Nothing is open"),
    h("p", {}, `${counted(health.totalDevices, "device")}, the longest ago scanned `, time(health.oldest_scan_at), "."),
  );
}

/** @param {URLSearchParams} query @param {string} state */
function filters(query, state) {
  const to = (/** @type {Record<string, string | null>} */ changes) => changed("", query, changes);
  /** @param {string} name @param {string[]} values @param {Record<string, string>} titles */
  const links = (name, values, titles = {}) =>
    choice(name, [
      { text: "any", href: to({ [name.toLowerCase()]: null }), chosen: !query.has(name.toLowerCase()) },
      ...values.map((value) => ({
        text: value,
        title: titles[value],
        href: to({ [name.toLowerCase()]: value }),
        chosen: query.get(name.toLowerCase()) === value,
      })),
    ]);
  const device = query.get("device");
  const chosen = query.has("severity") || query.has("kind");
  const states = Object.entries(STATES).map(([value, [text]]) => ({ text, href: to({ state: value || null }), chosen: state === value }));
  return h(
    "div",
    { class: "filters" },
    choice("State", states),
    searching("", query, "device, summary, note"),
    h(
      "details",
      { open: chosen },
      h("summary", { id: "more-filters" }, "Severity and kind"),
      links("Severity", ["critical", "warning"]),
      links("Kind", Object.keys(KINDS), KINDS),
    ),
    device && h("p", {}, `Of the device ${device}. `, h("a", { href: to({ device: null }), id: "any-device" }, "Of any")),
  );
}
