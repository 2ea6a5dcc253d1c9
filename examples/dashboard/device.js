// One device: a metric large, all of them small, and what was wrong in words.

import { breachList, showIncidents } from "./incidents.js";
import { badge, clock, counted, fill, h, headings, isBeyond, number, quantity, quoted, section, time, why, zone } from "./format.js";
import { multiples, quality } from "./multiples.js";
import { draw, limitsOf } from "./plot.js";
import { controls, link, spanOf, viewOf } from "./range.js";
import { Refusal } from "./server.js";
import { at } from "./spans.js";
import { table } from "./table.js";

/** @typedef {import("../api-server/src/documents.ts").DevicePage} DevicePage */
/** @typedef {import("../api-server/src/documents.ts").TwinHistory} TwinHistory */
/** @typedef {import("../api-server/src/documents.ts").Metrics} Metrics */
/** @typedef {import("../api-server/src/documents.ts").Signals} Signals */
/** @typedef {import("../api-server/src/documents.ts").Outlook} Outlook */
/** @typedef {import("./plot.js").Picture} Picture */

const LISTED = 4;
/** Points of the large picture and of a small one. */
const POINTS = 1000;
const FEW = 240;
/** From so many hours on, minutes ahead would not show: there is the outlook, a day for so many back, and no more than so many. */
const OUTLOOK_HOURS = 72;
const BACK = 3;
const MOST_AHEAD = 7;
/** Seconds for which an outlook of days holds. */
const OUTLOOK_HOLDS = 600;

/** @param {string} id @param {URLSearchParams} query @returns {import("./app.js").Page} */
export function devicePage(id, query) {
  const path = `/devices/${encodeURIComponent(id)}`;
  let view = viewOf(query);
  const head = h("div", { class: "head" });
  const range = h("div", { class: "controls" });
  const picture = h("div", { class: "picture" }, h("div", { class: "ghost tall" }));
  const told = h("div", {});
  const all = h("div", {}, h("div", { class: "ghost tiles" }));
  const incidents = h("ul", { class: "events" });
  const none = h("p", { class: "muted" }, "None is open, and none was in this time.");
  const rest = h("div", { class: "page" });
  const large = h("section", { class: "panel", "aria-label": "One metric" }, range, picture, told);
  const element = h("div", { class: "page" }, head, large, section("All metrics", all), section("Incidents", incidents, none), rest);
  /** @type {ReturnType<typeof draw> | undefined} */
  let plot;
  /** What is drawn, for the table of it. @type {Picture | undefined} */
  let drawn;

  /** Answers that change by less than a pixel for a while. @type {Map<string, { path: string, until: number, answer: Promise<any> }>} */
  const kept = new Map();
  /** @param {string} what @param {string} path @param {number} seconds @param {(path: string) => Promise<any>} get */
  function keep(what, path, seconds, get) {
    const old = kept.get(what);
    if (old?.path === path && Date.now() < old.until) return old.answer;
    const answer = get(path);
    kept.set(what, { path, until: Date.now() + 1000 * seconds, answer });
    answer.catch(() => kept.delete(what));
    return answer;
  }

  /** @param {import("./app.js").Server} server @returns {Promise<import("./app.js").Shown>} */
  async function show({ get, act, paint }) {
    const now = view;
    const asked = spanOf(now);
    const page = /** @type {DevicePage} */ (await get(`${path}?${asked}`));
    const { device } = page;
    const field = now.field ?? page.metric;
    const seconds = (at(page.to) - at(page.from)) / 1000;
    fill(head, ...heading(page));
    if (range.dataset.view !== `${asked} ${field}`) {
      range.dataset.view = `${asked} ${field}`;
      fill(range, ...controls(id, now, page, () => drawn && { name: drawn.values.field, text: table(drawn) }));
    }
    showIncidents(incidents, page.incidents, false, page.may_act && act);
    none.hidden = page.incidents.length > 0;
    fill(
      rest,
      page.breaches.length > 0 && section("Foretold", breachList(page.breaches)),
      section(`Anomalies from ${clock(page.from)} to ${clock(page.to)}`, anomalies(page)),
    );
    paint();

    const named = `field=${encodeURIComponent(field)}`;
    const days = Math.min(MOST_AHEAD, Math.floor(seconds / 86_400 / BACK));
    const small = /** @type {Promise<Metrics>} */ (keep("metrics", `${path}/metrics?${asked}&points=${FEW}`, seconds / FEW, get));
    small.catch(() => {}); // it is awaited below, where it fails the page
    const [{ signals }, values, outlook] = /** @type {[Signals, TwinHistory | Refusal, Outlook | Refusal | null]} */ (
      await Promise.all([
        get(`${path}/signals`),
        keep("values", `${path}/twin/history?${named}&${asked}&points=${POINTS}`, seconds / POINTS, get).catch(refused),
        now.to === undefined && seconds >= 3600 * OUTLOOK_HOURS
          ? keep("outlook", `${path}/outlook?${named}&days=${days}`, OUTLOOK_HOLDS, get).catch(refused)
          : null,
      ])
    );
    const signal = signals.find((one) => one.metric === field);
    if (values instanceof Refusal) {
      plot?.destroy();
      plot = drawn = undefined;
      fill(picture, nothing(field, values.problem));
      fill(told, h("p", { class: "muted" }, quality(signal)));
    } else {
      plot ??= draw(picture, turn, open);
      drawn = {
        page,
        values,
        outlook: outlook instanceof Refusal ? null : outlook,
        range: [at(page.from), at(page.to)],
        live: now.to === undefined,
      };
      plot.show(drawn);
      fill(told, ...sentences(drawn, signal), outlook instanceof Refusal && h("p", { class: "muted" }, `No outlook: ${outlook.message}.`));
    }
    const { metrics } = await small;
    fill(
      all,
      multiples(metrics, signals, page.incidents, {
        range: [at(page.from), at(page.to)],
        shown: field,
        link: (one) => link(id, { ...now, field: one }),
      }),
    );
    return { title: device.name, scanned: device.scanned_at };
  }

  /** Another span of time, as the picture was zoomed or moved. @param {number} from @param {number} to */
  function turn(from, to) {
    location.hash = link(id, { field: view.field, from: new Date(from), to: new Date(to) });
  }

  return {
    title: "Device",
    element,
    show,
    turn(query) {
      const before = view.field;
      view = viewOf(query);
      if (view.field !== before) large.scrollIntoView({ block: "nearest" });
    },
    leave: () => plot?.destroy(),
  };
}

/** A field of which there is nothing is no failure of the page. @param {unknown} error */
function refused(error) {
  if (error instanceof Refusal && (error.status === 404 || error.status === 409)) return error;
  throw error;
}

/** Show the sentence of an incident. @param {{ incident_id: number }} incident */
function open({ incident_id }) {
  const sentence = document.getElementById(`incident-${incident_id}`);
  sentence?.scrollIntoView({ block: "center" });
  sentence?.focus();
}

/** @param {DevicePage} page */
function heading({ device }) {
  const facts = /** @type {const} */ ([
    ["Last reading", time(device.last_reading_at), "The newest that a scan has seen, by its own time."],
    ["Scanned", time(device.scanned_at), "When somebody last looked for anomalies and incidents."],
    ["Known from", time(device.scanned_from), "Anomalies and incidents are known from then on."],
    ["Forest trained", time(device.forest_trained_at), "When it last learned what is ordinary for this device."],
    ["Forecasts", number(device.forecast_models), "How many metrics have a model that foretells the next minutes."],
  ]);
  return [
    h("p", { class: "crumb" }, h("a", { href: "#/devices" }, "← Devices")),
    h("h1", {}, device.name, " ", badge(device.status)),
    device.device_id !== device.name && h("p", { class: "muted id" }, device.device_id),
    h("dl", { class: "facts" }, ...facts.map(([name, value, said]) => h("div", { title: said }, h("dt", {}, name), h("dd", {}, value)))),
    device.error && h("p", { class: "notice" }, `The last scan says: ${device.error}`),
  ];
}

/** @param {string} field @param {import("../api-server/src/documents.ts").Problem} problem */
function nothing(field, { message, hint }) {
  return h(
    "div",
    { class: "empty" },
    h("p", {}, `Nothing to draw of ${field}: ${message}.`),
    h("p", { class: "muted" }, "Take a longer range, or another metric."),
    hint && h("p", {}, "What was reported: ", h("code", {}, hint)),
  );
}

/** What the picture shows, in words and figures. @param {Picture} picture @param {Signals["signals"][number] | undefined} signal */
function sentences(picture, signal) {
  const { page, values, outlook } = picture;
  const measured = (/** @type {number | null} */ value) => quantity(value, values.unit);
  const point = values.points.at(-1);
  const last = picture.live && signal?.last_at ? { value: signal.last_value, timestamp: signal.last_at } : point;
  const usual = values.usual.findLast((one) => last && one.timestamp <= last.timestamp);
  const all = values.points.map((one) => one.value);
  const critical = page.anomalies.filter((one) => one.severity === "critical").length;
  const unmarked = page.anomalies_found - page.anomalies.length;
  return [
    last &&
      h(
        "p",
        { id: "latest" },
        h("strong", {}, measured(last.value)),
        ` at ${clock(last.timestamp)}`,
        usual && `, where ${measured(usual.low)} to ${measured(usual.high)} is usual`,
        `; from ${measured(Math.min(...all))} to ${measured(Math.max(...all))} here. `,
        ...limitsOf(values).map(({ value, side }) => `Its ${side === "high" ? "upper" : "lower"} limit is ${measured(value)}. `),
        `${counted(page.anomalies_found, "anomaly", "anomalies")} (${critical} critical)`,
        unmarked > 0 && `, of which the newest ${counted(page.anomalies.length, "one")} are marked`,
        `. Times in ${zone}.`,
      ),
    h("p", { class: "muted", id: "quality" }, quality(signal)),
    ...(outlook?.capacity ?? []).map((one) => h("p", {}, reached(one, last?.value ?? null, measured))),
    picture.live && !outlook && forecast(picture),
  ];
}

/** When a limit is reached. @param {Outlook["capacity"][number]} one @param {number | null} now @param {(value: number | null) => string} measured */
function reached({ limit_value, side, earliest, latest, probably, days, why_not }, now, measured) {
  const limit = `its ${side === "high" ? "upper" : "lower"} limit of ${measured(limit_value)}`;
  if (isBeyond(now, limit_value, side)) return `It is beyond ${limit}.`;
  if (why_not) return `When it reaches ${limit} is not known: ${why_not}.`;
  if (!earliest) return `It does not reach ${limit} within ${counted(days, "day")}.`;
  const when = [probably ? `probably ${clock(probably)}` : "", latest ? `at the latest ${clock(latest)}` : `perhaps not within ${counted(days, "day")}`];
  return `It reaches ${limit} at the earliest ${clock(earliest)}, ${when.filter(Boolean).join(", ")}.`;
}

/** The forecast in figures. @param {Picture} picture */
function forecast({ page, values }) {
  const { forecast: steps, forecast_level: share } = values;
  const measured = (/** @type {number | null} */ value) => quantity(value, values.unit);
  const last = steps.at(-1);
  if (!last) {
    const call = `SELECT ml_train_lstm(${quoted(page.device.device_id)}, ${quoted(values.field)});`;
    return h("p", { class: "muted" }, "No forecast of this metric: ", h("code", {}, call));
  }
  const columns = /** @type {const} */ ([["Time"], ["Forecast"], [`${Math.round((share ?? 0) * 1000) / 10} % between`]]);
  const rows = steps.map((step) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, time(step.timestamp, clock)),
      h("td", {}, measured(step.predicted_value)),
      h("td", {}, `${measured(step.confidence_lower)} and ${measured(step.confidence_upper)}`),
    ),
  );
  return h(
    "details",
    {},
    h("summary", {}, `Forecast until ${clock(last.timestamp)}, in figures`),
    h(
      "table",
      { id: "forecast" },
      headings(columns),
      h("tbody", {}, ...rows),
    ),
  );
}

/** @param {DevicePage} page */
function anomalies({ anomalies: found }) {
  if (found.length === 0) return h("p", { class: "muted" }, "None.");
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
  const more = found.slice(LISTED);
  return h(
    "div",
    {},
    rows(found.slice(0, LISTED)),
    more.length > 0 && h("details", {}, h("summary", {}, counted(more.length, "earlier one")), rows(more)),
  );
}
