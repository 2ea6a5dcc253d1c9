"""Signals -> findings: what the detectors are made of.

In: arrays of times and values. Out: scores, severities and reasons.
The Isolation Forest itself is `pyml.forest`.
"""
