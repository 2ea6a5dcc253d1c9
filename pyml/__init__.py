"""Anomaly detection and forecasting for device telemetry, inside PostgreSQL."""

import os

__version__ = "1.0.0.dev0"

# BLAS and OpenMP read these when they are first loaded. A process that scores or
# trains is one of many on its machine, and threads of its own would take the
# signals that are meant for a server's main thread.
for _library in ("OPENBLAS", "OMP", "MKL"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"
