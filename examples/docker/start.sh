# Starts the database; where the volume holds none yet, it is made first.
set -eu
bin=$(echo /usr/lib/postgresql/*/bin)
cd /var/lib/postgresql
if ! [ -e data ]; then
    rm -rf new # of a start that was interrupted
    "$bin/initdb" -D new -E UTF8 --locale=C.UTF-8 --auth-local=peer --auth-host=scram-sha-256
    echo "host all all all scram-sha-256" >> new/pg_hba.conf
    cat >> new/postgresql.conf << 'END'
listen_addresses = '*'
shared_preload_libraries = 'pg_cron'
cron.database_name = 'fleet'
cron.host = '/var/run/postgresql'
END
    "$bin/pg_ctl" -D new -o "-c listen_addresses=''" -w start
    createdb fleet
    psql -X -q -d fleet -v ON_ERROR_STOP=1 \
        -v password="$API_PASSWORD" -v intake="$INTAKE_PASSWORD" \
        -f /usr/src/pyml/demo/history.sql -f /usr/src/pyml/tables.sql -f - << 'END'
CREATE EXTENSION pyml CASCADE;
SELECT * FROM ml_setup('device_shadow_history', 'device_uuid', 'timestamp', 'reported_state',
    'shadow_name', 'device-state', device_name => 'public.devices.name');
CREATE EXTENSION pg_cron;
SELECT * FROM ml_schedule();
CREATE ROLE api LOGIN PASSWORD :'password';
SELECT ml_grant('api', 'train');
GRANT SELECT ON devices, device_shadow_history TO api;
CREATE ROLE intake LOGIN PASSWORD :'intake';
GRANT SELECT, INSERT ON devices, device_shadow_history TO intake;
GRANT USAGE ON SEQUENCE device_shadow_history_id_seq TO intake;
GRANT SELECT, INSERT, UPDATE ON device_shadows TO intake;
END
    "$bin/pg_ctl" -D new -m fast -w stop
    mv new data
fi
exec "$bin/postgres" -D data
