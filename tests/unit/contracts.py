"""What the checks of detectors and of forecasters share."""

import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from hypothesis import event
from hypothesis import strategies as st

from pyml.detectors.base import DETECTORS, Detector, Fitted, Signals
from pyml.errors import NotEnoughData
from pyml.forecasters.base import FORECASTERS
from pyml.telemetry.habits import Habit, rhythm
from pyml.telemetry.messages import received
from pyml.telemetry.readings import Readings, assemble, learn
from pyml.telemetry.series import Metric

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
OWNERS = ROOT / "tests" / "database" / "owners"
# Less than the settings ask for, so that a training takes moments.
SMALL = {"n_estimators": 20, "epochs": 2, "sequence_length": 20, "forecast_horizon": 4}
_SETTING = re.compile(r"^    \('(\w+)', '(number|integer|zone)', [^,]+, [^,]+, '([^']*)'", re.M)


def known_settings() -> dict[str, tuple[type, str]]:
    """Type and default of each setting that a training may take, as the migrations make it."""
    sources = sorted((ROOT / "sql" / "migrations").glob("*.sql"))
    found = [row for path in sources for row in _SETTING.findall(path.read_text())]
    return {
        name: ({"number": float, "integer": int, "zone": str}[kind], text)
        for name, kind, text in found
    }


def settings_of(owner: Any) -> dict[str, Any]:
    """What its training takes, small."""
    defaults = known_settings()
    return {
        name: kind(SMALL.get(setting, defaults[setting][1]))
        for name, (setting, kind) in owner.settings.items()
    }


def with_example(registry: Any, file: str) -> list[Any]:
    """Those that are registered, and the one of a file beside the tests of the database."""
    before = list(registry)
    spec = importlib.util.spec_from_file_location(f"owners_{Path(file).stem}", OWNERS / file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    (made,) = set(registry) - set(before)
    registry.forget(made.kind)
    return [*before, made]


def kinds() -> list[str]:
    """The kinds of all that is registered."""
    return [owner.kind for owner in (*DETECTORS, *FORECASTERS)]


HABIT = Habit(rhythm=60.0, hold=120.0)


def gauges(names: Iterable[str]) -> list[Metric]:
    """Metrics that are read as they are."""
    return [Metric(name, name, None, 1.0, "gauge") for name in names]


def signals_of(times: Any, values: Any, names: Iterable[str]) -> Signals:
    """Signals of readings that came as they are."""
    held, unfit = np.zeros(len(times), bool), np.full(values.shape, np.nan)
    return Signals(times, values, tuple(names), rhythm(times), held, unfit)


def read(times: Any, values: Any, interval: float | None = None) -> Readings:
    """The readings of messages with a number a column."""
    metrics = gauges(f"m{j}" for j in range(values.shape[1]))
    found = received(times, values, [])
    habits, own = learn(found, metrics)
    return assemble(found, metrics, habits, own if interval is None else interval)


def nothing() -> None:
    """A pulse that goes on."""


class Ended(Exception):
    """Raised by a pulse."""


def ending(after: int) -> tuple[list[int], Any]:
    """Counts the calls of a pulse, and the pulse, which raises at a certain one."""
    calls = [0]

    def pulse() -> None:
        calls[0] += 1
        if calls[0] == after:
            raise Ended

    return calls, pulse


SHAPES = ("noise", "constant", "steps", "spikes", "huge", "absurd", "counter", "turns", "missing")


def column(shape: str, rng: Any, n: int) -> Any:
    """Junk of a shape: what devices have been seen to send."""
    places = np.arange(n)
    match shape:
        case "noise":
            return rng.normal(40, 5, n)
        case "constant":
            return np.full(n, 7.0)
        case "steps":
            return np.repeat(rng.integers(0, 3, n // 50 + 1), 50)[:n].astype(float)
        case "spikes":
            return np.where(rng.random(n) < 0.02, 1e15, rng.normal(size=n))
        case "huge":
            return 1e15 - rng.integers(0, 1000, n)
        case "absurd":
            return rng.choice([-1e15, 0.0, 1e-300, 1e15], n)
        case "counter":
            return np.cumsum(rng.exponential(1e6, n)) % 1e9
        case "turns":
            return (places % 2).astype(float)
    return np.full(n, np.nan)


@st.composite
def junk(draw: Any, columns: int, lengths: Iterable[int], interval: float) -> tuple[Any, Any]:
    """Times (n,) and values (n, m), with holes, gaps and uneven steps."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    n = draw(st.sampled_from(list(lengths)))
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=columns))
    values = np.stack([column(shape, rng, n) for shape in shapes], axis=1)
    values[rng.random(values.shape) < draw(st.sampled_from([0.0, 0.02, 0.1, 0.95]))] = np.nan
    uneven = draw(st.sampled_from([(1.0,), (0.9, 1.0, 1.1), (0.2, 120.0)]))
    steps = interval * rng.choice(uneven, n)
    if n and draw(st.booleans()):
        steps[n // 5] = 3e7  # most of a year
    return 1.7e9 + np.cumsum(steps), values


def frozen(*arrays: Any) -> Iterator[Any]:
    """Arrays that cannot be written to."""
    for array in arrays:
        copy = array.copy()
        copy.setflags(write=False)
        yield copy


def unless_too_little(call: Callable[[], T]) -> T | None:
    """What a call gives; None where it says that there is not enough data, and what to do."""
    try:
        found = call()
    except NotEnoughData as error:
        if not (error.detail and error.hint):
            raise AssertionError("it does not say what to do") from error
        event("too little")
        return None
    event("enough")
    return found


def train(
    detector: Detector[Any], signals: Signals, pulse: Callable[[], None] = nothing
) -> tuple[Fitted[Any], Any]:
    """A training with all that is stored of it: its fitted numbers, and the model that knows."""
    fitted = detector.fit(signals, settings_of(detector), pulse)
    metrics = gauges(fitted.model.names)
    return fitted, fitted.model.knowing(metrics, [HABIT] * len(metrics))
