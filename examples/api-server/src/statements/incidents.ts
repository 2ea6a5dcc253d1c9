/** Of incidents, of what happens to them, and of what people say. */

import type { Statement } from "../database.js";
import { incidentOf, MAY_ACT, nameOf, namesOf, ONE } from "./pieces.js";

/**
 * Whether an incident is one of those that many devices have at once. A router's shards each have numbers of their own.
 * @param which of these, as a condition
 */
const isOfMany = (which = "") => `(i.incident_id IN (SELECT unnest(f.incident_ids) FROM ml_fleet_incidents f${which})
          AND i.device_uuid IN (SELECT unnest(f.device_uuids) FROM ml_fleet_incidents f${which}))`;

/** Incidents, the latest first, resolved ones and those of retired devices too; null for a device that there is not. */
export function incidents(
  names: boolean,
  asked: {
    state?: string[];
    severity?: string;
    kind?: string;
    device?: string;
    search?: string;
    from?: string;
    to?: string;
    fleet?: number;
    folded: boolean;
    limit: number;
    cursor?: string;
  },
): Statement {
  const { state, severity, kind, device, search, from, to, fleet, folded, limit, cursor } = asked;
  const [microseconds, number] = cursor?.split("-") ?? [];
  const name = nameOf("i", names);
  return {
    text: `WITH asked AS MATERIALIZED (SELECT ml_uuid($4) AS device), page AS (
      SELECT i.started_at, i.incident_id, ${incidentOf(name)} AS document
      FROM ml_incidents i${namesOf("i", names)}
      WHERE ($1::text[] IS NULL OR i.state = ANY ($1)) AND ($2::text IS NULL OR i.severity = $2)
        AND ($3::text IS NULL OR i.kind = $3) AND ($4::text IS NULL OR i.device_uuid ${ONE})
        AND ($5::timestamptz IS NULL OR i.ended_at >= $5) AND ($6::timestamptz IS NULL OR i.started_at <= $6)
        AND ($7::bigint IS NULL OR (i.started_at, i.incident_id) < (timestamptz 'epoch' + $7 * interval '1 microsecond', $8::bigint))
        AND ($10::text IS NULL OR position(lower($10) IN lower(concat_ws(' ', ${name}, i.device_id, i.summary, i.note))) > 0)
        AND ($11::bigint IS NULL OR ${isOfMany(" WHERE $11 = ANY (f.incident_ids)")})
        ${folded ? `AND NOT ${isOfMany()}` : ""}
      ORDER BY i.started_at DESC, i.incident_id DESC LIMIT $9 + 1
    ), numbered AS (
      SELECT p.*, row_number() OVER (ORDER BY p.started_at DESC, p.incident_id DESC) AS n FROM page p
    )
    SELECT jsonb_build_object('incidents', coalesce(jsonb_agg(p.document ORDER BY p.n) FILTER (WHERE p.n <= $9), '[]'),
      'next', max(concat((extract(epoch FROM p.started_at) * 1000000)::bigint, '-', p.incident_id)) FILTER (WHERE p.n = $9 AND (SELECT count(*) FROM page) > $9),
      'may_act', ${MAY_ACT}) AS document
    FROM numbered p
    HAVING $4::text IS NULL OR count(*) > 0 OR EXISTS (SELECT FROM ml_device d WHERE d.device_uuid ${ONE})`,
    values: [state, severity, kind, device, from, to, microseconds, number, limit, search, fleet],
  };
}

/** Say of all those that are one fleet incident with an incident; null where it is of none. */
export function sayOfAll(does: "acknowledge" | "resolve", id: number, note: string | undefined): Statement {
  return {
    text: `WITH said AS MATERIALIZED (
      SELECT ml_${does}(i.incident_id, $2) AS document FROM ml_incidents i
      WHERE ${isOfMany(" WHERE $1 = ANY (f.incident_ids)")} AND i.state <> 'resolved'
    )
    SELECT jsonb_build_object('incidents', count(*), 'changed', count(*) FILTER (WHERE s.document -> 'changed' = 'true')) AS document
    FROM said s HAVING count(*) > 0`,
    values: [id, note],
  };
}

/** One incident with what makes its case: evidence, findings, events. */
export function incident(names: boolean, id: number): Statement {
  return {
    text: `SELECT ${incidentOf(nameOf("i", names))} || jsonb_build_object('evidence', i.evidence,
      'findings', (SELECT coalesce(jsonb_agg(jsonb_build_object('finding_id', f.finding_id, 'detector', f.detector, 'kind', f.kind,
          'metric', nullif(f.metric, ''), 'started_at', f.started_at, 'last_at', f.last_at, 'severity', f.severity, 'score', f.score,
          'rarity', f.rarity, 'sentence', f.sentence, 'evidence', f.evidence) ORDER BY f.started_at, f.finding_id), '[]')
        FROM ml_finding f WHERE f.incident_id = i.incident_id),
      'events', (SELECT coalesce(jsonb_agg(jsonb_build_object('event_id', e.event_id, 'event', e.event,
          'happened_at', e.happened_at, 'replayed', e.replayed) ORDER BY e.event_id), '[]')
        FROM ml_event e WHERE e.incident_id = i.incident_id)) AS document
    FROM ml_incidents i${namesOf("i", names)} WHERE i.incident_id = $1`,
    values: [id],
  };
}

/** Events in one answer. */
export const EVENTS = 1000;

/**
 * What happened to incidents and to scans after an event, or after what is settled: that of a minute ago, before which none is
 * committed any more.
 */
export function events(after: number | undefined): Statement {
  return {
    text: `WITH settled AS (
      SELECT coalesce(max(e.event_id), 0) AS event_id FROM ml_event e WHERE e.written_at < now() - interval '1 minute'
    ), page AS (
      SELECT e.event_id, e.event, e.happened_at, e.incident_id, e.device_uuid, coalesce(d.device_id, e.device_uuid::text) AS device_id,
             coalesce(d.device_name, d.device_id, e.device_uuid::text) AS name, i.kind, i.severity, i.state, i.summary
      FROM ml_event e LEFT JOIN ml_incident i USING (incident_id) LEFT JOIN ml_device d ON d.device_uuid = e.device_uuid
      WHERE e.event_id > coalesce($1::bigint, (SELECT s.event_id FROM settled s)) AND NOT e.replayed
      ORDER BY e.event_id LIMIT ${EVENTS}
    )
    SELECT jsonb_build_object('events', coalesce(jsonb_agg(to_jsonb(p) ORDER BY p.event_id), '[]'),
      'settled', least((SELECT s.event_id FROM settled s), CASE WHEN count(*) = ${EVENTS} THEN max(p.event_id) END)) AS document
    FROM page p`,
    values: [after],
  };
}

/** Rules and quiet windows that hold. */
export function rules(): Statement {
  return {
    text: `SELECT jsonb_build_object('rules', coalesce(jsonb_agg(to_jsonb(r) - 'device_name' || jsonb_build_object('name', r.device_name)
      ORDER BY r.created_at, r.rule_id, r.quiet_id), '[]')) AS document FROM ml_rules r`,
    values: [],
  };
}

type Said = "ml_rule" | "ml_quiet";

/** Make a rule or a quiet window, of what its route takes. */
export function say(table: Said, { device, ...row }: Record<string, unknown>): Statement {
  const columns = Object.keys(row);
  return {
    text: `INSERT INTO ${table} AS r (${["device_uuid", ...columns].join(", ")})
    VALUES (${["ml_uuid($1)", ...columns.map((_, i) => `$${i + 2}`)].join(", ")}) RETURNING to_jsonb(r) AS document`,
    values: [device, ...columns.map((column) => row[column])],
  };
}

/** Delete a rule or a quiet window; null where there is none of that number. */
export function unsay(table: Said, key: string, id: number): Statement {
  return { text: `DELETE FROM ${table} r WHERE r.${key} = $1 RETURNING to_jsonb(r) AS document`, values: [id] };
}
