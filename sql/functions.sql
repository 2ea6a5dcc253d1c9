-- The functions and their COMMENTs, a file a topic. Re-runnable: replaced whole at each upgrade.
--
-- installer/extension.py puts each file in the place of its line, writes the functions that need
-- Python for their declarations (installer/api.py), and fills in the snippets of sql/snippets.

\ir functions/answers.sql
\ir functions/paths.sql
\ir functions/settings.sql
\ir functions/writes.sql
\ir functions/findings.sql
\ir functions/deliveries.sql
\ir functions/rules.sql
\ir functions/incidents.sql
\ir functions/api.sql
\ir functions/models.sql
\ir functions/history.sql
\ir functions/fleet.sql
\ir functions/scan.sql
\ir functions/retrain.sql
\ir functions/schedule.sql
\ir functions/doctor_history.sql
\ir functions/discover.sql
\ir functions/setup.sql
\ir functions/doctor.sql
\ir functions/privileges.sql
