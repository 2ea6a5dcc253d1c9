"""The arithmetic of the speed programs."""

import numpy as np
import pytest
from scale import slope
from timing import percentiles, table


def test_the_slope_is_the_exponent_of_a_power_law():
    sizes = [1, 10, 100, 1000]
    for exponent in (0.0, 0.5, 1.0):
        assert slope(sizes, [3 * size**exponent for size in sizes]) == pytest.approx(exponent)


def test_percentiles_are_of_the_calls():
    assert percentiles(np.arange(101.0)) == (50.0, 95.0, 99.0)


def test_a_table_lines_its_columns_up(capsys):
    table(["what", "ms"], [("short", 1.5), ("much longer", 1234567.0)])
    assert capsys.readouterr().out.splitlines()[:3] == [
        "what                ms",
        "short              1.5",
        "much longer  1,234,567",
    ]
