// All metrics of a device, small, beside each other: each a link that brings it forward.

import { clock, counted, h, quantity, span, svg } from "./format.js";
import { at, isWithin } from "./spans.js";

/** @typedef {import("../api-server/src/documents.ts").Metrics["metrics"][number]} Metric */
/** @typedef {import("../api-server/src/documents.ts").Signals["signals"][number]} Signal */
/** @typedef {import("../api-server/src/documents.ts").Incident} Incident */

const WIDTH = 200;
const HEIGHT = 48;
/** A line is broken where nothing came for so many usual steps. */
const GAP = 10;

/**
 * @param {Metric[]} metrics
 * @param {Signal[]} signals
 * @param {Incident[]} incidents
 * @param {{ range: [number, number], shown: string, link: (metric: string) => string }} view
 */
export function multiples(metrics, signals, incidents, view) {
  const signalOf = (/** @type {Metric} */ { metric }) => signals.find((one) => one.metric === metric);
  // What it has never sent is another device's.
  const own = metrics.filter((one) => one.points.length > 0 || signalOf(one)?.in_model || one.metric === view.shown);
  const others = metrics.filter((one) => !own.includes(one));
  return h(
    "div",
    {},
    h("ul", { class: "multiples" }, ...own.map((one) => small(one, signalOf(one), incidents, view))),
    others.length > 0 &&
      h(
        "details",
        {},
        h("summary", { id: "others" }, `${counted(others.length, "metric")} without a value in this time`),
        h(
          "ul",
          { class: "plain" },
          ...others.map((one) => h("li", {}, h("a", { href: view.link(one.metric) }, one.metric), ` ${signalOf(one)?.why_not ?? ""}`)),
        ),
      ),
  );
}

/** @param {Metric} metric @param {Signal | undefined} signal @param {Incident[]} incidents @param {Parameters<typeof multiples>[3]} view */
function small({ metric, unit, points }, signal, incidents, { range, shown, link }) {
  const told = (/** @type {number | null} */ value) => quantity(value, unit);
  const values = points.map((one) => one.value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const last = signal?.last_value ?? values.at(-1) ?? null;
  const reach = points.length > 0 ? `${told(low)} to ${told(high)}` : "nothing came";
  const own = incidents.filter((one) => one.leading_metric === metric);
  const open = own.find((one) => one.state !== "resolved");
  return h(
    "li",
    {},
    h(
      "a",
      {
        href: link(metric),
        id: `metric-${metric}`,
        class: "multiple",
        "aria-current": metric === shown && "true",
        title: `${metric}: ${told(last)}; ${reach} in ${span((range[1] - range[0]) / 1000)}. ${quality(signal)}`,
      },
      h("span", { class: "name" }, metric),
      h("strong", {}, told(last)),
      line(points, range, low, high, own),
      h("span", { class: "muted" }, reach),
      open && h("span", { class: open.severity }, `${open.severity}: ${open.kind}`),
      signal && signal.quality && signal.quality !== "ok" && h("span", { class: "warning" }, `${signal.quality} since ${clock(signal.since ?? "")}`),
      signal && !signal.in_model && h("span", { class: "muted" }, `not looked at: ${signal.why_not}`),
    ),
  );
}

/** @param {Metric["points"]} points @param {[number, number]} range @param {number} low @param {number} high @param {Incident[]} incidents */
function line(points, [from, to], low, high, incidents) {
  const x = (/** @type {string} */ moment) => (Math.min(1, Math.max(0, (at(moment) - from) / (to - from))) * WIDTH);
  const y = (/** @type {number} */ value) => HEIGHT - 2 - (high > low ? (value - low) / (high - low) : 0.5) * (HEIGHT - 4);
  const places = points.map((one) => ({ x: x(one.timestamp), y: y(one.value) }));
  const steps = places.map((one, i) => one.x - (places[i - 1]?.x ?? -WIDTH));
  const usual = steps.slice(1).sort((a, b) => a - b)[steps.length >> 1] ?? 0;
  const path = places.map((one, i) => {
    const broken = /** @type {number} */ (steps[i]) > Math.max(2, GAP * usual);
    return `${broken ? "M" : "L"}${one.x.toFixed(1)} ${one.y.toFixed(1)}${broken ? "h0" : ""}`;
  });
  const spans = incidents
    .filter((one) => isWithin(one, [from, to]))
    .map((one) => svg("rect", { class: `span ${one.severity}`, x: x(one.started_at), y: 0, height: HEIGHT, width: Math.max(1.5, x(one.ended_at) - x(one.started_at)) }));
  const box = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" };
  return svg("svg", box, ...spans, svg("path", { d: path.join("") }));
}

/** How a signal is measured, in words. @param {Signal | undefined} signal */
export function quality(signal) {
  if (!signal) return "No scan has looked at how it is measured.";
  if (!signal.in_model) return `Detection does not use it: ${signal.why_not}.`;
  const shares = /** @type {[string, number | null][]} */ ([
    ["missing", signal.missing_share],
    ["out of range", signal.out_of_range_share],
    ["junk", signal.junk_share],
    ["resets", signal.reset_share],
    ["of a wrong clock", signal.bad_clock_share],
  ]);
  const bad = shares.filter(([, share]) => share).map(([name, share]) => `${(100 * /** @type {number} */ (share)).toFixed(1)} % ${name}`);
  const every = signal.rhythm_seconds ? `One sample in ${pause(signal.rhythm_seconds)}. ` : "";
  const of = signal.samples === null ? "" : `Of ${signal.samples.toLocaleString("en")} samples in 24 h ${bad.length > 0 ? bad.join(", ") : "all are good"}.`;
  return every + of;
}

/** @param {number} seconds */
function pause(seconds) {
  return seconds < 120 ? `${Number(seconds.toFixed(1))} s` : span(seconds);
}
