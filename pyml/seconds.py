"""Lengths of time, in seconds."""

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
WEEK, YEAR = 7 * DAY, 366 * DAY
