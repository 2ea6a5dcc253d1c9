"""The statements, as PostgreSQL gets them; each takes and gives a whole batch."""

# What is acknowledged is on disk, whatever the database does else.
DURABLE = """
SELECT set_config('synchronous_commit', 'on', false)
WHERE current_setting('synchronous_commit') = 'off'
"""

ADD_DEVICES = """
INSERT INTO devices (uuid, name)
SELECT i.device, i.name FROM unnest(%(devices)s::uuid[], %(names)s::text[]) AS i (device, name)
WHERE NOT EXISTS (SELECT FROM devices d WHERE d.uuid = i.device)
ON CONFLICT (uuid) DO NOTHING
"""

KNOWN_DEVICES = "SELECT uuid FROM devices WHERE uuid = ANY (%(devices)s::uuid[])"

# OFFSET 0 keeps each message one probe of the index: no join that reads the whole history.
REPEATED = """
SELECT i.place
FROM unnest(%(devices)s::uuid[], %(shadows)s::text[], %(times)s::timestamp[], %(states)s::text[])
    WITH ORDINALITY AS i (device, shadow, at, state, place)
WHERE EXISTS (
    SELECT FROM device_shadow_history h
    WHERE h.device_uuid = i.device AND h.shadow_name = i.shadow AND h."timestamp" = i.at
      AND h.reported_state = i.state::jsonb OFFSET 0)
"""

ADD_SHADOWS = """
INSERT INTO device_shadows (device_uuid, shadow_name)
SELECT i.device, i.shadow
FROM unnest(%(devices)s::uuid[], %(shadows)s::text[]) AS i (device, shadow)
WHERE NOT EXISTS (
    SELECT FROM device_shadows s
    WHERE s.device_uuid = i.device AND s.shadow_name = i.shadow OFFSET 0)
ON CONFLICT DO NOTHING
"""

# In order, so that two services cannot wait for each other.
SHADOWS = """
SELECT s.device_uuid, s.shadow_name, s.reported_state::text, s.version, s."timestamp"
FROM unnest(%(devices)s::uuid[], %(shadows)s::text[]) AS i (device, shadow)
JOIN device_shadows s ON s.device_uuid = i.device AND s.shadow_name = i.shadow
ORDER BY s.device_uuid, s.shadow_name FOR UPDATE OF s
"""

PUT_SHADOWS = """
UPDATE device_shadows s
SET reported_state = i.state::jsonb, version = i.version, "timestamp" = i.at
FROM unnest(%(devices)s::uuid[], %(shadows)s::text[], %(states)s::text[], %(versions)s::int[],
    %(times)s::timestamp[]) AS i (device, shadow, state, version, at)
WHERE s.device_uuid = i.device AND s.shadow_name = i.shadow
"""

COPY = """
COPY device_shadow_history (device_uuid, shadow_name, reported_state, version, "timestamp")
FROM STDIN
"""
