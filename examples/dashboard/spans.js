// Spans of time in the picture: incidents, and what nobody has scanned.

/** @typedef {import("./plot.js").Picture} Picture */
/** @typedef {import("./plot.js").Line} Line */
/** @typedef {import("../api-server/src/documents.ts").Incident} Incident */

/** An incident is at least as wide as a finger finds. */
const NARROW = 4;

/** @param {string} moment */
export const at = (moment) => new Date(moment).getTime();

/** @param {Incident} one @param {[number, number]} range */
export const isWithin = (one, [from, to]) => at(one.ended_at) >= from && at(one.started_at) <= to;

/** Incidents under a place of the picture, the shortest first. @param {Line} chart @param {Picture} shown @param {number} place @returns {Incident[]} */
export function incidentsAt(chart, shown, place) {
  const { x } = /** @type {any} */ (chart.scales);
  if (!shown || place < x.left || place > x.right) return [];
  return shown.page.incidents
    .filter((one) => isWithin(one, [x.min, x.max]))
    .filter((one) => place >= x.getPixelForValue(at(one.started_at)) - NARROW && place <= x.getPixelForValue(at(one.ended_at)) + NARROW)
    .sort((a, b) => at(a.ended_at) - at(a.started_at) - (at(b.ended_at) - at(b.started_at)));
}

/** When nobody has looked: before the first scan, and after the last one. @param {Picture} shown @returns {[number, number][]} */
export function unscanned({ page: { device, timestamp }, range }) {
  const end = Math.min(range[1], at(timestamp));
  const { scanned_from: first, scanned_at: last } = device;
  if (!first || !last) return end > range[0] ? [[range[0], end]] : [];
  const spans = /** @type {[number, number][]} */ ([
    [range[0], Math.min(at(first), end)],
    [Math.max(at(last), range[0]), end],
  ]);
  return spans.filter(([from, until]) => until - from > (range[1] - range[0]) / 200);
}

/** Incidents, and time that nobody has scanned, behind the lines. @param {any} chart @param {Picture} shown */
export function drawSpans(chart, shown) {
  const { ctx, chartArea, scales } = chart;
  const { left, right, top, height } = chartArea;
  /** @param {number} from @param {number} to @param {number} least @param {string | CanvasPattern} fillStyle */
  const span = (from, to, least, fillStyle) => {
    const [x, end] = [from, to].map((one) => Math.min(right, Math.max(left, scales.x.getPixelForValue(one))));
    ctx.fillStyle = fillStyle;
    ctx.fillRect(x, top, Math.max(least, /** @type {number} */ (end) - /** @type {number} */ (x)), height);
  };
  ctx.save();
  for (const [from, to] of unscanned(shown)) span(from, to, 0, hatching(ctx, colourOf("unscanned")));
  for (const one of shown.page.incidents.filter((each) => isWithin(each, [scales.x.min, scales.x.max]))) {
    span(at(one.started_at), at(one.ended_at), NARROW, colourOf(`${one.severity}-span`));
  }
  ctx.restore();
}

/** @param {CanvasRenderingContext2D} ctx @param {string} ink */
function hatching(ctx, ink) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8;
  const pen = /** @type {CanvasRenderingContext2D} */ (tile.getContext("2d"));
  pen.strokeStyle = ink;
  pen.beginPath();
  for (const shift of [-8, 0, 8]) {
    pen.moveTo(shift, 8);
    pen.lineTo(shift + 8, 0);
  }
  pen.stroke();
  return /** @type {CanvasPattern} */ (ctx.createPattern(tile, "repeat"));
}

/** A colour of the style sheet. @param {string} name */
export function colourOf(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}
