"""Signals -> forecasts: what the forecasters are made of.

In: one series on a regular grid. Out: the next steps with their intervals.
The LSTM itself is `pyml.lstm`.
"""
