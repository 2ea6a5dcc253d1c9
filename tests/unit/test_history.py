"""Decoding of the bytes that the server sends."""

import numpy as np

from pyml.telemetry import history

# Microseconds since 2000 of PostgreSQL's first and last moment, and what its own
# date_part('epoch', …) says of them.
FIRST, LAST = -211_813_488_000_000_000, 9_223_371_331_199_999_999


def _sent(*counted: int) -> bytes:
    cells = np.zeros(len(counted), [("length", ">i4"), ("value", ">i8")])
    cells["length"], cells["value"] = 8, counted
    return bytes(20) + cells.tobytes()


def test_every_moment_that_postgresql_knows_is_read():
    ends = np.iinfo(np.int64)
    found = history._decoded(_sent(ends.min, FIRST, 0, 1, LAST, ends.max))
    told = [np.inf, -210866803200.0, 946684800.0, 946684800.000001, 9224318016000.0, np.inf]
    assert found.tolist() == told


def test_no_moments_are_none():
    assert history._decoded(None).shape == (0,)


def test_any_moment_has_a_name():
    assert history.iso(np.inf) == "infinity"
    assert history.iso(-np.inf) == "-infinity"
    assert history.iso(LAST / 1e6 + 946684800).startswith("294277-01-01")
    assert history.iso(-210866803200.0).startswith("-4713-11-24")
