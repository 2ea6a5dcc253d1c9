"""What detect.py found is pooled as its protocol says, and two runs are compared."""

import json
import sys

import numpy as np
import pytest
from baselines import deviation, tail
from figures import MEANS, WORST, main, of_all, of_all_windows, of_kind, of_windows


def run(*values, normal=0.01, worst=0.1, deaf=0):
    """A machine: one figure for everything, by seed."""
    return {
        "pyml": {
            str(seed): dict.fromkeys(MEANS, value)
            | {"W normal": normal, "worst day": worst, "deaf days": deaf}
            for seed, value in enumerate(values)
        }
    }


FOUND = {
    "smd": {"a": run(0.2, 0.4), "b": run(0.6, 0.8, normal=0.03, worst=0.5)},
    "asd": {"c": run(0.1, 0.1, deaf=4)},
}


def test_a_kind_is_the_mean_of_its_machines_and_each_kind_counts_the_same():
    assert of_kind(FOUND["smd"], "pyml")["AP"] == pytest.approx(0.5)
    assert of_all(FOUND, "pyml")["AP"] == pytest.approx(0.3)


def test_the_worst_is_not_averaged():
    assert [of_kind(FOUND["smd"], "pyml")[name] for name in WORST] == [0.03, 0.5, 0]
    assert [of_all(FOUND, "pyml")[name] for name in WORST] == [0.03, 0.5, 4]


def test_a_kind_of_windows_does_not_count_in_the_mean_of_kinds():
    more = FOUND | {"nab": {"d": run(0.9)}}
    assert of_all(more, "pyml") == of_all(FOUND, "pyml")


def windowed(count, share, score):
    """A machine that finds a share of its windows at one false alarm a day; one seed."""
    figures = dict.fromkeys(MEANS, share) | {"worst day": 0.1, "deaf days": 0, "windows": count}
    for sign in "WC":
        figures |= {f"{sign} false/day": 1.0, f"{sign} NAB": score}
    return {"pyml": {"0": figures}}


def test_windows_are_counted_and_all_of_them_weigh_the_same():
    one, other = (of_windows(windowed(*w)["pyml"].values()) for w in ((4, 0.5, 60), (1, 1, 10)))
    assert (one["found at 1/week"], one["W found"], one["W false/week"]) == (2, 2, 7)
    together = of_all_windows([one, other])
    assert (together["windows"], together["W found"], together["C false/week"]) == (5, 3, 7)
    assert together["W NAB"] == 50


@pytest.fixture
def printed(tmp_path, monkeypatch, capsys):
    def printed(*runs):
        paths = [tmp_path / f"{number}.json" for number in range(len(runs))]
        for path, found in zip(paths, runs, strict=True):
            path.write_text(json.dumps(found))
        monkeypatch.setattr(sys, "argv", ["figures", *map(str, paths)])
        main()
        return capsys.readouterr().out

    return printed


def test_a_run_is_printed_by_kind_and_machine(printed):
    text = printed(FOUND)
    for part in ("Mean of 2 kinds", "smd, mean of 2 machines", "asd, pyml, by machine", "seed 1"):
        assert part in text


def test_windows_are_printed_by_machine_and_for_all(printed):
    text = printed({"nab": {"a": windowed(2, 0.5, 60), "b": windowed(1, 1, 90)}})
    assert "Mean of" not in text
    for part in ("nab, windows of a", "nab, windows of b", "nab, windows of all"):
        assert part in text


def test_a_difference_is_marked_where_it_exceeds_the_noise(printed):
    """Of `a` and `b`: variance of a mean .02 / 2 each; of their mean, before and after, .01."""
    for less, star in ((0.19, " "), (0.21, "*")):
        later = {
            "smd": {
                name: run(*values)
                for name, values in (
                    ("a", (0.2 - less, 0.4 - less)),
                    ("b", (0.6 - less, 0.8 - less)),
                )
            }
        }
        lines = {line.split()[0]: line for line in printed(FOUND, later).splitlines() if line}
        assert f"{0.5 - less:.4f} -{less:.4f} ±0.1000{star}" in lines["smd"]
        assert "asd" not in lines
        assert "*" not in lines["a"]


def test_runs_of_other_machines_are_not_compared(printed):
    with pytest.raises(SystemExit, match="no machine in common"):
        printed(FOUND, {"smd": {"c": run(0.1, 0.2)}})


def test_a_tail_is_the_share_of_training_scores_as_high():
    train = np.arange(1.0, 10)
    np.testing.assert_allclose(np.exp(-tail(train, np.array([0.0, 5, 9, 20]))), [1, 0.6, 0.2, 0.1])


def test_the_deviation_trails():
    values = np.array([[1.0], [3], [3], [3]])
    np.testing.assert_allclose(deviation(values, 2)[:, 0], [0, 1, 0, 0])
