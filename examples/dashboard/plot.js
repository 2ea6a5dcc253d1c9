// The picture of one metric, with Chart.js: history, anomalies, forecast band, limit.

// @ts-expect-error where the API server has it; it makes window.Chart
import "/vendor/chart.js";
import { clock, counted, fill, h, lines, number, tick, why } from "./format.js";

/** @typedef {import("../api-server/src/documents.ts").DevicePage} DevicePage */
/** @typedef {import("chart.js").Chart<"line", { x: number, y: number }[]>} Line */

/** Steps between two ticks of the time axis, of which the first that leaves room is taken. */
const MINUTE = 60_000;
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440].map((minutes) => minutes * MINUTE);

/** A reading is joined to the one before it across at most this many usual steps. */
const GAP = 10;

/** What the pointer is about: an anomaly, if one is near, however many readings are nearer. */
const NEAR = 12;
const { Interaction } = /** @type {any} */ (window).Chart;
Interaction.modes.anomaly = (
  /** @type {any} */ chart,
  /** @type {any} */ event,
  /** @type {any} */ options,
  /** @type {boolean} */ final,
) => {
  const marks = chart.data.datasets.flatMap((/** @type {any} */ set, /** @type {number} */ datasetIndex) =>
    set.showLine === false
      ? chart.getDatasetMeta(datasetIndex).data.map((/** @type {any} */ element, /** @type {number} */ index) => ({
          element,
          datasetIndex,
          index,
          away: Math.hypot(element.x - event.x, element.y - event.y),
        }))
      : [],
  );
  const [mark] = marks.sort((/** @type {any} */ a, /** @type {any} */ b) => a.away - b.away);
  return mark && mark.away < NEAR ? [mark] : Interaction.modes.nearest(chart, event, options, final);
};

/** @param {HTMLElement} place */
export function draw(place) {
  const canvas = h("canvas", { tabindex: 0, role: "img", id: "plot" });
  const spoken = h("p", { class: "unseen", "aria-live": "polite" });
  fill(place, h("div", { class: "canvas" }, canvas), spoken);
  /** @type {DevicePage} */
  let page;
  const chart = /** @type {Line} */ (
    new /** @type {any} */ (window).Chart(canvas, {
      type: "line",
      data: { datasets: [] },
      options: {
        animation: false,
        parsing: false,
        normalized: true,
        maintainAspectRatio: false,
        interaction: { mode: "anomaly", intersect: false, axis: "x" },
        elements: { point: { radius: 0, borderWidth: 2 }, line: { borderWidth: 1.5 } },
        scales: {
          x: {
            type: "linear",
            afterBuildTicks: roundTimes,
            ticks: { maxRotation: 0, callback: (/** @type {number} */ moment) => tick(moment) },
          },
          y: { title: { display: true }, ticks: {} },
        },
        plugins: {
          decimation: { enabled: true, algorithm: "min-max" },
          legend: {
            align: "start",
            onClick: () => {},
            labels: {
              usePointStyle: true,
              boxHeight: 7,
              boxWidth: 18,
              filter: (/** @type {any} */ item, /** @type {any} */ { datasets }) =>
                item.text !== "" && datasets[item.datasetIndex].data.length > 0,
              sort: (/** @type {any} */ a, /** @type {any} */ b) => a.datasetIndex - b.datasetIndex,
            },
          },
          tooltip: {
            callbacks: {
              title: (/** @type {any[]} */ items) => clock(items[0]?.parsed.x ?? 0),
              label: (/** @type {any} */ item) => label(page, item),
            },
            filter: (/** @type {any} */ item, /** @type {number} */ i, /** @type {any[]} */ all) =>
              item.dataset.label !== "" && all.findIndex((one) => one.dataset === item.dataset) === i,
          },
        },
      },
    })
  );

  const recolour = () => {
    colour(chart);
    chart.update();
  };
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", recolour);
  canvas.addEventListener("keydown", (event) => step(chart, event, spoken));

  return {
    /** @param {DevicePage} found */
    show(found) {
      page = found;
      chart.data.datasets = /** @type {any} */ (series(found));
      const { x, y } = /** @type {any} */ (chart.options.scales);
      const last = found.forecast.at(-1) ?? found.history.at(-1);
      [x.min, x.max] = [found.history[0], last].map((one) => at(one?.timestamp ?? ""));
      const percent = found.unit === "%";
      y.title.text = found.unit ? `${found.field} (${found.unit})` : found.field;
      y.ticks.callback = (/** @type {number} */ value) => number(value, percent);
      if (percent) Object.assign(y, { min: 0, suggestedMax: Math.min(100, 1.15 * highest(found)) });
      canvas.setAttribute("aria-label", summary(found));
      recolour();
    },
    destroy() {
      scheme.removeEventListener("change", recolour);
      chart.destroy();
    },
  };
}

/** Put the ticks of the time axis on round local times. @param {any} scale */
function roundTimes(scale) {
  const { min, max, chart } = scale;
  const room = Math.max(2, chart.width / 90);
  const step = STEPS.find((one) => (max - min) / one <= room) ?? 1440 * MINUTE;
  const offset = new Date(min).getTimezoneOffset() * MINUTE;
  const first = Math.ceil((min - offset) / step) * step + offset;
  scale.ticks = Array.from({ length: Math.max(0, Math.floor((max - first) / step) + 1) }, (_, i) => ({
    value: first + i * step,
  }));
}

/** @param {DevicePage} found */
function highest({ history, forecast }) {
  return Math.max(...history.map((one) => one.value), ...forecast.map((one) => one.confidence_upper));
}

/** @param {DevicePage} found */
function summary(found) {
  return (
    `${found.field} of ${found.device.name}: ${counted(found.history.length, "reading")}, ` +
    `${counted(found.anomalies.length, "anomaly", "anomalies")} marked. ` +
    "The arrow keys go from anomaly to anomaly."
  );
}

/** @param {string} moment */
const at = (moment) => new Date(moment).getTime();

/** @param {DevicePage} found */
function series({ history, anomalies, forecast, limit_value: limit }) {
  const line = history.map((one) => ({ x: at(one.timestamp), y: one.value }));
  const steps = line.slice(1).map((one, i) => one.x - (line[i]?.x ?? 0)).sort((a, b) => a - b);
  const usual = steps[steps.length >> 1] ?? 60_000;
  const start = line.at(-1);
  /** The forecast goes on from the last reading. @param {"predicted_value" | "confidence_lower" | "confidence_upper"} key */
  const ahead = (key) => {
    const points = forecast.map((one) => ({ x: at(one.timestamp), y: one[key] }));
    return start && points[0] && points[0].x - start.x < GAP * usual ? [start, ...points] : points;
  };
  /** @param {string} severity */
  const marks = (severity) =>
    anomalies
      .filter((one) => one.severity === severity)
      .map((one) => ({ x: at(one.timestamp), y: one.value ?? nearest(line, at(one.timestamp)), anomaly: one }))
      .reverse();
  const ends = [line[0], forecast.length ? { x: at(/** @type {any} */ (forecast.at(-1)).timestamp), y: 0 } : start];
  return [
    { key: "history", label: "readings", data: line, pointStyle: "line", spanGaps: GAP * usual, order: 3 },
    { key: "lower", label: "", data: ahead("confidence_lower"), fill: "+1", borderWidth: 0, order: 5 },
    { key: "upper", label: "", data: ahead("confidence_upper"), borderWidth: 0, order: 5 },
    ...(forecast.length
      ? [{ key: "forecast", label: "forecast, with its interval", data: ahead("predicted_value"), borderDash: [5, 4], pointStyle: "line", order: 4 }]
      : []),
    ...(limit === null
      ? []
      : [{ key: "limit", label: "limit", data: ends.map((end) => ({ x: end?.x ?? 0, y: limit })), borderDash: [2, 3], pointStyle: "line", order: 6 }]),
    { key: "warning", label: "warning", data: marks("warning"), showLine: false, pointRadius: 4, pointStyle: "triangle", order: 2 },
    { key: "critical", label: "critical", data: marks("critical"), showLine: false, pointRadius: 5, pointStyle: "rectRot", order: 1 },
  ];
}

/** @param {{ x: number, y: number }[]} line @param {number} x */
function nearest(line, x) {
  return line.reduce((best, one) => (Math.abs(one.x - x) < Math.abs(best.x - x) ? one : best), line[0] ?? { x, y: 0 }).y;
}

/** @param {DevicePage} page @param {any} item */
function label(page, item) {
  const { anomaly } = item.raw;
  if (anomaly) return [`${anomaly.severity}:`, ...why(anomaly.reasons).flatMap((one) => lines(one))];
  return `${item.dataset.label}: ${number(item.parsed.y, page.unit === "%")}`;
}

/** Colours as the style sheet has them. @param {Line} chart */
function colour(chart) {
  const style = getComputedStyle(document.documentElement);
  const of = (/** @type {string} */ name) => style.getPropertyValue(`--${name}`).trim();
  for (const set of /** @type {any[]} */ (chart.data.datasets)) {
    const name = { history: "line", lower: "band", upper: "band", limit: "critical" }[/** @type {string} */ (set.key)] ?? set.key;
    Object.assign(set, { borderColor: of(name), backgroundColor: of(name), pointBackgroundColor: of(name), pointBorderColor: of(name) });
  }
  const { scales, plugins } = /** @type {any} */ (chart.options);
  for (const scale of [scales.x, scales.y]) {
    scale.grid = { color: of("grid") };
    scale.ticks.color = of("muted");
    if (scale.title) scale.title.color = of("muted");
  }
  plugins.legend.labels.color = of("ink");
  Object.assign(plugins.tooltip, { backgroundColor: of("ink"), titleColor: of("ground"), bodyColor: of("ground"), usePointStyle: true });
}

/** Go to the next anomaly on the left or the right. @param {Line} chart @param {KeyboardEvent} event @param {HTMLElement} spoken */
function step(chart, event, spoken) {
  const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!way) return;
  event.preventDefault();
  const marks = chart.data.datasets
    .flatMap((set, datasetIndex) => set.data.map((point, index) => ({ datasetIndex, index, point })))
    .filter(({ point }) => "anomaly" in point)
    .sort((a, b) => a.point.x - b.point.x);
  if (marks.length === 0) return;
  const active = chart.tooltip?.getActiveElements()[0];
  const place = marks.findIndex((one) => one.datasetIndex === active?.datasetIndex && one.index === active.index);
  const next = place < 0 ? (way < 0 ? marks.length - 1 : 0) : Math.min(marks.length - 1, Math.max(0, place + way));
  const { datasetIndex, index, point } = /** @type {(typeof marks)[number]} */ (marks[next]);
  const { x, y } = /** @type {any} */ (chart.getDatasetMeta(datasetIndex).data[index]);
  chart.tooltip?.setActiveElements([{ datasetIndex, index }], { x, y });
  chart.update();
  const { anomaly } = /** @type {any} */ (point);
  spoken.textContent = `${clock(point.x)}, ${anomaly.severity}: ${why(anomaly.reasons).join(". ")}`;
}
