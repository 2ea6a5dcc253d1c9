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
OF_THAT_TIME = """
SELECT i.place - 1, h.state
FROM unnest(%(devices)s::uuid[], %(shadows)s::text[], %(times)s::timestamp[])
    WITH ORDINALITY AS i (device, shadow, at, place),
LATERAL (
    SELECT h.reported_state::text AS state FROM device_shadow_history h
    WHERE h.device_uuid = i.device AND h.shadow_name = i.shadow AND h."timestamp" = i.at OFFSET 0
) AS h
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

# The states are one array in JSON: thousands of texts with quotes take long to become one of SQL's.
PUT_SHADOWS = """
UPDATE device_shadows s
SET reported_state = i.state, version = i.version, "timestamp" = i.at
FROM ROWS FROM (unnest(%(devices)s::uuid[]), unnest(%(shadows)s::text[]),
    unnest(%(versions)s::int[]), unnest(%(times)s::timestamp[]),
    jsonb_array_elements(%(states)s::jsonb)) AS i (device, shadow, version, at, state)
WHERE s.device_uuid = i.device AND s.shadow_name = i.shadow
"""

COPY = """
COPY device_shadow_history (device_uuid, shadow_name, reported_state, version, "timestamp")
FROM STDIN
"""
