// What the large picture shows, as comma-separated values.

/** @typedef {import("./plot.js").Picture} Picture */

const COLUMNS = /** @type {const} */ (["timestamp", "value", "usual_low", "usual_high", "predicted", "lower", "upper", "anomaly"]);
/** @typedef {{ [column in (typeof COLUMNS)[number]]?: string | number }} Row */

/** One row a moment of which something is shown, the oldest first. @param {Picture} picture */
export function table({ page, values, outlook, live }) {
  /** @type {Row[]} */
  const ahead = outlook
    ? outlook.outlook.map((one) => ({ timestamp: one.timestamp, predicted: one.predicted_value, lower: one.lower_90, upper: one.upper_90 }))
    : values.forecast.map((one) => ({ timestamp: one.timestamp, predicted: one.predicted_value, lower: one.confidence_lower, upper: one.confidence_upper }));
  /** @type {Row[]} */
  const rows = [
    ...values.points,
    ...values.usual.map((one) => ({ timestamp: one.timestamp, usual_low: one.low, usual_high: one.high })),
    ...page.anomalies.map((one) => ({ timestamp: one.timestamp, anomaly: one.severity })),
    ...(live ? ahead : []),
  ];
  /** @type {Map<number, Row>} */
  const moments = new Map();
  for (const row of rows) {
    const moment = new Date(row.timestamp ?? "").getTime();
    moments.set(moment, { ...moments.get(moment), ...row });
  }
  const lines = [...moments].sort(([a], [b]) => a - b).map(([, row]) => COLUMNS.map((name) => row[name] ?? "").join(","));
  return `${[COLUMNS.join(","), ...lines].join("\r\n")}\r\n`;
}
