// The picture of one metric, with Chart.js: what was measured, what is usual, what is foretold, and what was wrong.

// @ts-expect-error where the API server has them; it makes window.Chart
import "/vendor/chart.js";
// @ts-expect-error what the next one moves and zooms by, under fingers
import "/vendor/hammer.js";
// @ts-expect-error it registers itself
import "/vendor/chartjs-plugin-zoom.js";
import { clock, counted, fill, h, lines, quantity, tick, why } from "./format.js";
import { at, colourOf, drawSpans, incidentsAt, isWithin, unscanned } from "./spans.js";

/** @typedef {import("../api-server/src/documents.ts").DevicePage} DevicePage */
/** @typedef {import("../api-server/src/documents.ts").TwinHistory} TwinHistory */
/** @typedef {import("../api-server/src/documents.ts").Incident} Incident */
/** @typedef {import("../api-server/src/documents.ts").Outlook} Outlook */
/** @typedef {import("chart.js").Chart<"line", { x: number, y: number }[]>} Line */
/**
 * All that is drawn.
 * @typedef {object} Picture
 * @property {DevicePage} page
 * @property {TwinHistory} values
 * @property {Outlook | null} outlook
 * @property {[number, number]} range from when to when, in milliseconds
 * @property {boolean} live whether it goes on until now, and with what is foretold
 */

/** Steps between two ticks of the time axis, of which the first that leaves room is taken. */
const MINUTE = 60_000;
const DAY = 1440 * MINUTE;
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 10_080].map((minutes) => minutes * MINUTE);

/** A reading is joined to the one before it across at most this many usual steps. */
const GAP = 10;
/** What the pointer is about: an anomaly, if one is near, however many readings are nearer. */
const NEAR = 12;
/** Marks are smaller where there are more of them than so many. */
const CROWD = 60;
/** What a mark of the legend looks like, and what it says when it is pointed at. */
const LEGEND = /** @type {const} */ ({
  history: ["line", "readings", "What was measured. Where there are many, the least and the greatest of each part are drawn."],
  usual: ["area", "usual", "Means of 15 minutes stay in here on ordinary days. Single readings may be outside."],
  forecast: ["dashed", "forecast", "The next minutes by the metric's model, with the interval that holds most of what comes."],
  outlook: ["dashed", "outlook", "The next days by the metric's own past, with bands that hold 80 and 90 of 100 values."],
  limit: ["dotted", "limit", "Of the metric: reaching it is a breach."],
  incident: ["area", "incident", "From when the trouble began to when it was last seen. A click goes to its sentence."],
  warning: ["sign", "warning", "A reading that is an anomaly."],
  critical: ["sign", "critical", "A reading that is a grave anomaly."],
  unscanned: ["hatched", "not scanned", "Nobody has looked for anomalies and incidents here."],
});
const SIGNS = { warning: "▲", critical: "◆" };

const { Chart } = /** @type {any} */ (window);
/** What is there at the time of the pointer: of each part that is told the point that is nearest. */
Chart.Interaction.modes.moment = (/** @type {any} */ chart, /** @type {any} */ event) => {
  const near = chart.data.datasets.flatMap((/** @type {any} */ set, /** @type {number} */ datasetIndex) => {
    if (!set.told) return [];
    const away = (/** @type {any} */ one) => (set.marks ? Math.hypot(one.x - event.x, one.y - event.y) : Math.abs(one.x - event.x));
    const all = chart.getDatasetMeta(datasetIndex).data;
    let index = 0;
    for (let i = 1; i < all.length; i++) if (away(all[i]) < away(all[index])) index = i;
    return all[index] && away(all[index]) < (set.marks ? NEAR : 4 * NEAR) ? [{ element: all[index], datasetIndex, index }] : [];
  });
  const mark = near.find((/** @type {any} */ one) => chart.data.datasets[one.datasetIndex].marks);
  return mark ? [mark] : near;
};

/**
 * @param {HTMLElement} place
 * @param {(from: number, to: number) => void} turn shows another span of time
 * @param {(incident: Incident) => void} open shows the sentence of an incident
 */
export function draw(place, turn, open) {
  const canvas = h("canvas", { tabindex: 0, role: "img", id: "plot" });
  const spoken = h("p", { class: "unseen", "aria-live": "polite" });
  const legend = h("ul", { class: "legend", "aria-label": "In the picture" });
  fill(place, h("div", { class: "canvas" }, canvas), legend, spoken);
  /** @type {Picture} */
  let shown;
  const turned = (/** @type {any} */ { chart }) => turn(chart.scales.x.min, chart.scales.x.max);
  const chart = /** @type {Line} */ (
    new Chart(canvas, {
      type: "line",
      data: { datasets: [] },
      plugins: [{ id: "spans", beforeDatasetsDraw: (/** @type {any} */ one) => shown && drawSpans(one, shown) }],
      options: {
        animation: false,
        parsing: false,
        normalized: true,
        maintainAspectRatio: false,
        interaction: { mode: "moment", intersect: false },
        elements: { point: { radius: 0, borderWidth: 2 }, line: { borderWidth: 1.5 } },
        scales: {
          x: {
            type: "linear",
            afterBuildTicks: roundTimes,
            ticks: { maxRotation: 0, callback: (/** @type {number} */ moment) => tick(moment) },
          },
          y: { title: { display: true }, ticks: {} },
        },
        onClick: (/** @type {any} */ event) => {
          const [one] = incidentsAt(chart, shown, event.x);
          if (one) open(one);
        },
        onHover: (/** @type {any} */ event) => {
          canvas.style.cursor = incidentsAt(chart, shown, event.x).length > 0 ? "pointer" : "crosshair";
        },
        plugins: {
          legend: { display: false },
          tooltip: {
            callbacks: {
              title: (/** @type {any[]} */ items) => clock(items[0]?.parsed.x ?? 0),
              label: (/** @type {any} */ item) => label(shown, item),
              footer: (/** @type {any[]} */ items) =>
                incidentsAt(chart, shown, items[0]?.element.x ?? 0).flatMap((one) => lines(`${one.severity}: ${one.summary}`)),
            },
          },
          zoom: {
            limits: { x: { minRange: 5 * MINUTE, maxRange: 400 * DAY } },
            pan: { enabled: true, mode: "x", modifierKey: "shift", onPanComplete: turned },
            zoom: {
              mode: "x",
              drag: { enabled: true, threshold: 8, borderWidth: 1 },
              wheel: { enabled: true, modifierKey: "ctrl" },
              pinch: { enabled: true },
              onZoomComplete: turned,
            },
          },
        },
      },
    })
  );

  const recolour = () => {
    colour(chart);
    chart.update("none");
  };
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", recolour);
  canvas.addEventListener("keydown", (event) => step(chart, event, spoken));

  return {
    /** @param {Picture} picture */
    show(picture) {
      shown = picture;
      const { page, values } = picture;
      const sets = series(picture);
      chart.data.datasets = /** @type {any} */ (sets);
      const { x, y } = /** @type {any} */ (chart.options.scales);
      const end = picture.live ? Math.max(...sets.map((one) => one.data.at(-1)?.x ?? 0)) : 0;
      [x.min, x.max] = [picture.range[0], Math.max(picture.range[1], end)];
      y.title.text = values.unit ? `${values.field} (${values.unit})` : values.field;
      y.ticks.callback = (/** @type {number} */ value, /** @type {number} */ _, /** @type {{ value: number }[]} */ ticks) => {
        const [one, other] = [ticks[0]?.value ?? 0, ticks[1]?.value ?? 0];
        return quantity(value, values.unit, 1 + Math.ceil(Math.log10(Math.max(1, Math.abs(value / (one - other))))));
      };
      y.min = values.unit === "%" && lowest(sets) >= 0 ? 0 : undefined;
      canvas.setAttribute("aria-label", summary(picture));
      const there = new Set(sets.filter((one) => one.data.length > 0).map((one) => one.part));
      if (page.incidents.some((one) => isWithin(one, picture.range))) there.add("incident");
      if (unscanned(picture).length > 0) there.add("unscanned");
      fill(legend, ...Object.keys(LEGEND).filter((one) => there.has(one)).map((one) => entry(/** @type {keyof typeof LEGEND} */ (one))));
      recolour();
    },
    destroy() {
      scheme.removeEventListener("change", recolour);
      chart.destroy();
    },
  };
}

/** @param {keyof typeof LEGEND} part */
function entry(part) {
  const [form, name, said] = LEGEND[part];
  const sign = form === "sign" ? SIGNS[/** @type {keyof typeof SIGNS} */ (part)] : "";
  return h("li", { title: said }, h("span", { class: `sign ${form} ${part}`, "aria-hidden": "true" }, sign), ` ${name}`);
}

/** Put the ticks of the time axis on round local times. @param {any} scale */
function roundTimes(scale) {
  const { min, max, chart } = scale;
  const room = Math.max(2, chart.width / 90);
  const step = STEPS.find((one) => (max - min) / one <= room) ?? 30 * DAY;
  const offset = new Date(min).getTimezoneOffset() * MINUTE;
  const first = Math.ceil((min - offset) / step) * step + offset;
  scale.ticks = Array.from({ length: Math.max(0, Math.floor((max - first) / step) + 1) }, (_, i) => ({
    value: first + i * step,
  }));
}

/** @param {{ data: { y: number }[] }[]} sets */
const lowest = (sets) => Math.min(...sets.flatMap((one) => one.data.map(({ y }) => y)));

/** @param {TwinHistory} values */
export function limitsOf({ limit_low, limit_high }) {
  const both = [{ value: limit_low, side: "low" }, { value: limit_high, side: "high" }];
  return /** @type {{ value: number, side: "low" | "high" }[]} */ (both.filter(({ value }) => value !== null));
}

/** @param {Picture} picture */
function summary({ page, values }) {
  const all = values.points.map((one) => one.value);
  const told = (/** @type {number} */ value) => quantity(value, values.unit);
  const range = all.length > 0 ? `from ${told(Math.min(...all))} to ${told(Math.max(...all))}, ` : "";
  return (
    `${values.field} of ${page.device.name} from ${clock(values.from)} to ${clock(values.to)}: ` +
    `${counted(all.length, "reading")}, ${range}${counted(page.anomalies.length, "anomaly", "anomalies")} marked. ` +
    "The arrow keys go from anomaly to anomaly."
  );
}

/** The parts of the picture that are lines and marks. @param {Picture} picture */
function series({ page, values, outlook, range, live }) {
  const line = values.points.map((one) => ({ x: at(one.timestamp), y: one.value }));
  const steps = line.slice(1).map((one, i) => one.x - (line[i]?.x ?? 0)).sort((a, b) => a - b);
  const usual = steps[steps.length >> 1] ?? MINUTE;
  const start = line.at(-1);
  /**
   * What is foretold goes on from the last reading.
   * @template {{ timestamp: string }} T
   * @param {T[]} ahead
   * @param {(one: T) => number} value
   */
  const points = (ahead, value) => {
    const found = ahead.map((one) => ({ x: at(one.timestamp), y: value(one) })).filter(({ x }) => start && x > start.x);
    return start && found[0] && found[0].x - start.x < Math.max(GAP * usual, 120 * MINUTE) ? [start, ...found] : found;
  };
  /** @param {string} part @param {string} key @param {{ x: number, y: number }[]} low @param {{ x: number, y: number }[]} high */
  const band = (part, key, low, high) => [
    { part, key: `${key}_low`, data: low, fill: "+1", borderWidth: 0, order: 8, colour: `${part}-band` },
    { part, key: `${key}_high`, data: high, borderWidth: 0, order: 8, colour: `${part}-band` },
  ];
  const there = values.usual.map((one) => ({ ...one, x: at(one.timestamp) }));
  const ahead = outlook?.outlook ?? [];
  const minutes = live && ahead.length === 0 ? values.forecast : [];
  const ends = [range[0], Math.max(range[1], at(ahead.at(-1)?.timestamp ?? "") || 0, at(minutes.at(-1)?.timestamp ?? "") || 0)];
  /** @param {"warning" | "critical"} severity */
  const marks = (severity) =>
    page.anomalies
      .filter((one) => one.severity === severity)
      .map((one) => ({ x: at(one.timestamp), y: one.metrics[values.field] ?? nearest(line, at(one.timestamp)), anomaly: one }))
      .reverse();
  const smaller = page.anomalies.length > CROWD ? 1.5 : 0;
  const foretold = { told: true, borderDash: [5, 4], order: 4 };
  return [
    { part: "history", key: "history", data: line, spanGaps: GAP * usual, order: 3, told: true, colour: "line" },
    ...band("usual", "usual", there.map(({ x, low }) => ({ x, y: low })), there.map(({ x, high }) => ({ x, y: high }))).map(
      (one) => ({ ...one, order: 9, told: one.key === "usual_low" }),
    ),
    ...band("outlook", "outlook_90", points(ahead, (one) => one.lower_90), points(ahead, (one) => one.upper_90)),
    ...band("outlook", "outlook_80", points(ahead, (one) => one.lower_80), points(ahead, (one) => one.upper_80)),
    { part: "outlook", key: "outlook", data: points(ahead, (one) => one.predicted_value), ...foretold, colour: "forecast" },
    ...band("forecast", "forecast", points(minutes, (one) => one.confidence_lower), points(minutes, (one) => one.confidence_upper)),
    { part: "forecast", key: "forecast", data: points(minutes, (one) => one.predicted_value), ...foretold, colour: "forecast" },
    ...limitsOf(values)
      .filter(({ value }) => isInSight(value, values))
      .map(({ value, side }) => ({
        ...{ part: "limit", key: `limit_${side}`, data: ends.map((x) => ({ x, y: value })), borderDash: [2, 3], order: 6, colour: "critical" },
      })),
    { part: "warning", key: "warning", data: marks("warning"), showLine: false, pointRadius: 4 - smaller, pointStyle: "triangle", order: 2, marks: true, told: true, colour: "warning" },
    { part: "critical", key: "critical", data: marks("critical"), showLine: false, pointRadius: 5 - smaller, pointStyle: "rectRot", order: 1, marks: true, told: true, colour: "critical" },
  ];
}

/** A limit far from all values would press them flat; one of a share never is far. @param {number} limit @param {TwinHistory} values */
function isInSight(limit, { unit, points }) {
  const all = points.map((one) => one.value);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  return unit === "%" || (limit >= low - 2 * (high - low) && limit <= high + 2 * (high - low));
}

/** @param {{ x: number, y: number }[]} line @param {number} x */
function nearest(line, x) {
  return line.reduce((best, one) => (Math.abs(one.x - x) < Math.abs(best.x - x) ? one : best), line[0] ?? { x, y: 0 }).y;
}

/** @param {Picture} picture @param {any} item */
function label({ values, outlook }, item) {
  const { anomaly } = item.raw;
  if (anomaly) return [`${anomaly.severity}:`, ...why(anomaly.reasons).flatMap((one) => lines(one))];
  const told = (/** @type {number} */ value) => quantity(value, values.unit);
  const i = item.dataIndex;
  if (item.dataset.key === "usual_low") {
    const { low, high } = /** @type {TwinHistory["usual"][number]} */ (values.usual[i]);
    return `usual: ${told(low)} to ${told(high)}`;
  }
  const ahead = outlook?.outlook.find((one) => at(one.timestamp) === item.parsed.x);
  if (ahead) return `outlook: ${told(ahead.predicted_value)}, 80 % between ${told(ahead.lower_80)} and ${told(ahead.upper_80)}`;
  return `${item.dataset.part === "history" ? values.field : "forecast"}: ${told(item.parsed.y)}`;
}

/** Colours as the style sheet has them. @param {Line} chart */
function colour(chart) {
  for (const set of /** @type {any[]} */ (chart.data.datasets)) {
    const ink = colourOf(set.colour);
    Object.assign(set, { borderColor: ink, backgroundColor: ink, pointBackgroundColor: ink, pointBorderColor: ink });
  }
  const { scales, plugins } = /** @type {any} */ (chart.options);
  for (const scale of [scales.x, scales.y]) {
    scale.grid = { color: colourOf("grid") };
    scale.ticks.color = colourOf("muted");
    if (scale.title) scale.title.color = colourOf("muted");
  }
  Object.assign(plugins.tooltip, { backgroundColor: colourOf("ink"), titleColor: colourOf("ground"), bodyColor: colourOf("ground"), footerColor: colourOf("ground"), usePointStyle: true });
  Object.assign(plugins.zoom.zoom.drag, { backgroundColor: colourOf("unscanned"), borderColor: colourOf("line") });
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
