/** Figures as Prometheus reads them. */

import { STATUSES } from "./documents/devices.js";

/** What the statement gives: a row of ml_fleet_health, and what it lacks. */
export type Measured = Record<(typeof STATUSES)[number], number> & {
  now: string;
  newest_scan_at: string | null;
  oldest_scan_at: string | null;
  last_reading_at: string | null;
  incidents_7d: number;
  expected_7d: number;
  anomalies_24h: number;
  trainings_24h: number;
  failed_trainings_24h: number;
  unresolved: { kind: string; severity: string; state: string; incidents: number }[];
};

type Sample = [labels: Record<string, string>, value: number | null];

/** The text format, version 0.0.4. */
export function exposition(found: Measured): string {
  const since = (moment: string | null) => moment && (Date.parse(found.now) - Date.parse(moment)) / 1000;
  const one = (value: number | "" | null): Sample[] => [[{}, value === "" ? null : value]];
  const families: [name: string, help: string, samples: Sample[]][] = [
    ["pyml_devices", "Devices by status.", STATUSES.map((status) => [{ status }, found[status]])],
    [
      "pyml_unresolved_incidents",
      "Incidents that are not resolved.",
      found.unresolved.map(({ kind, severity, state, incidents }) => [{ kind, severity, state }, incidents]),
    ],
    ["pyml_incidents_7d", "Incidents that opened within seven days.", one(found.incidents_7d)],
    ["pyml_expected_incidents_7d", "Incidents to be expected in a week in which nothing is wrong.", one(found.expected_7d)],
    ["pyml_anomalies_24h", "Anomalous readings within 24 hours.", one(found.anomalies_24h)],
    ["pyml_trainings_24h", "Trainings within 24 hours that did not fail.", one(found.trainings_24h)],
    ["pyml_failed_trainings_24h", "Trainings within 24 hours that failed.", one(found.failed_trainings_24h)],
    ["pyml_last_scan_seconds", "Seconds since any device was scanned.", one(since(found.newest_scan_at))],
    ["pyml_oldest_scan_seconds", "Seconds since the device was scanned that has waited longest.", one(since(found.oldest_scan_at))],
    ["pyml_last_reading_seconds", "Seconds since the latest reading of all.", one(since(found.last_reading_at))],
  ];
  return families.flatMap(([name, help, samples]) => [`# HELP ${name} ${help}`, `# TYPE ${name} gauge`, ...lines(name, samples)]).join("\n") + "\n";
}

function lines(name: string, samples: Sample[]): string[] {
  return samples
    .filter(([, value]) => value !== null)
    .map(([labels, value]) => {
      const list = Object.entries(labels).map(([label, text]) => `${label}="${text.replace(/[\\"\n]/g, (c) => (c === "\n" ? "\\n" : `\\${c}`))}"`);
      return `${name}${list.length > 0 ? `{${list.join(",")}}` : ""} ${value}`;
    });
}
