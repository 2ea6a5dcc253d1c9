"""Messages -> signals: reads a device's history and gives clean series.

In: rows of the user's table, over any connection. Out: arrays of times and values.
Knows no model.
"""
