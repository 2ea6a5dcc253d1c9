"""Anomaly detection and forecasting for device telemetry, inside PostgreSQL."""

__version__ = "1.0.0.dev0"
