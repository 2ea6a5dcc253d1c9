"""Messages in: what devices publish on a broker, into the history.

In come messages of MQTT, out go rows of ``device_shadow_history`` and ``device_shadows``. A message
is acknowledged after the transaction that holds it has committed.
"""
