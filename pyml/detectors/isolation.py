"""What an Isolation Forest is tuned by, and what a stored one knows."""

from dataclasses import asdict, dataclass
from typing import Any

from pyml.detectors.base import KNOWN, Known
from pyml.detectors.hours import SLOTS, Hours
from pyml.detectors.tails import Tail, is_tail
from pyml.detectors.together import Together
from pyml.forms import MAX_METRICS, listed, number, record, whole
from pyml.parameters import parameter
from pyml.seconds import YEAR

Matrix = list[list[float]]
"""Rows of numbers, as JSON has them."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the forest is tuned by.

    "Three kinds" are the Server Machine Dataset, the Application Server Dataset and JumpStarter's
    services in bench/. Docs: docs/experiments.md says what was tried.
    """

    windows: tuple[int, ...] = parameter(
        (15, 60),
        "trailing windows over which each metric's spread is taken, in readings of a device that "
        "reports once a minute; the first is compared together too",
        "three kinds; those of 5 and of 240 rank alike",
    )
    single_odds: float = parameter(
        0.5,
        "powers of ten by which a single metric has to be rarer than all of them together to "
        "count in their place",
        "three kinds: 0 to 1 rank alike; of 200 metrics one at ten times its range was lost",
    )
    slowest: int = parameter(
        30,
        "minutes between readings beyond which all windows grow with the interval",
        "the longest window then has two readings",
    )
    subsample: int = parameter(
        256, "readings that each tree is grown on", "Liu et al. 2008, section 4"
    )
    least_reported: float = parameter(
        0.05, "share of readings below which a metric is left out", "judgement"
    )
    critical_share: float = parameter(
        0.1, "share of the warnings that are critical, on ordinary days", "judgement"
    )
    ahead_share: float = parameter(
        0.6,
        "share of `contamination` for which the blocks' limits are taken: the days to come differ "
        "more from a training than its days do from each other",
        "three kinds: 1.2 % of normal readings flagged where 1 % is asked for; .5 to .8 tried",
    )
    counted_blocks: tuple[int, int] = parameter(
        (2, 5),
        "which blocks' limits count, from the strictest: the middle three of seven",
        "three kinds; the second to the fourth, without `ahead_share`, flag more and find no more",
    )
    lasting: int = parameter(
        90,
        "readings over which the mean distance tells a state from a moment",
        "8 machines; 60 to 240 were tried",
    )
    blocks: int = parameter(
        7,
        "blocks of time that the training is cut into; each is scored by trees that have not "
        "seen it",
        "the days of a week",
    )
    seen_blocks: tuple[int, ...] = parameter(
        (0, 1, 2, 4),
        "blocks that the first group of trees sees; the next group sees the next blocks",
        "complement of a perfect difference set: any two blocks are seen together equally often",
    )
    unusual_share: float = parameter(
        0.03,
        "share of the training that a state has to have lasted, to its end, to be how the machine "
        "works now",
        "8 machines; up to .06 was tried",
    )
    fault_blocks: int = parameter(
        2, "a state that no more than so many blocks have seen is a fault", "8 machines"
    )
    fault_share: float = parameter(
        0.1, "most readings, as a share, that are left out as faults", "8 machines; .03 to .1"
    )


PARAMETERS = Parameters()


@dataclass(frozen=True, slots=True)
class Spans:
    """How far back the features of a reading look.

    Attributes
    ----------
    interval : float
        Seconds between two readings.
    windows : tuple of int
        Trailing windows, in intervals, increasing.
    lasting : int
        The window over which a training tells a state from a moment.
    lookback : float
        Seconds before a reading that its score depends on.
    """

    interval: float
    windows: tuple[int, ...]
    lasting: int
    lookback: float

    @classmethod
    def of(cls, interval: float, p: Parameters) -> "Spans":
        """Those of a device that reports once in `interval` seconds.

        Windows are minutes for a device that reports less often than once a minute, and of two
        readings at least; beyond ``p.slowest`` minutes between readings all windows grow with the
        interval. For a device that reports more often they are readings.
        """
        slower = min(max(interval / 60.0, 1.0), p.slowest)
        windows = tuple(sorted({max(2, round(window / slower)) for window in p.windows}))
        return cls(
            interval,
            windows,
            max(1, round(p.lasting / slower)),
            windows[-1] * interval,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Known):
    """What a stored forest knows beside its trees; m metrics.

    Attributes
    ----------
    spans : Spans
    scaling : list, shape (m, 2)
        Median and range of each metric in the training.
    usual : list, shape (m, 2)
        The range of each metric's usual values.
    hours : Hours
        The usual values at each hour, in ranges from the median, and the usual spreads.
    together : Together
        How far beyond these all metrics usually are together.
    sizes : list, length 3 m
        What one in a hundred of each metric's exceeds: of these two, and of its jump.
    lonely, apart, single : Tail
        How rare the scores of the trees are, the distances of `together`, and the largest of a
        reading in its `sizes`.
    warning, critical : float
        Scores below these are a warning, and critical.
    """

    spans: Spans
    scaling: Matrix
    usual: Matrix
    hours: Hours
    together: Together
    sizes: list[float]
    lonely: Tail
    apart: Tail
    single: Tail
    warning: float = 0.0
    critical: float = 0.0

    @property
    def size(self) -> int:
        """Columns of the matrix that trees split by."""
        return len(self.names) * (3 + len(self.spans.windows))

    @classmethod
    def of_json(cls, meta: dict[str, Any]) -> "Model | None":
        """What `to_json` gave and JSON kept; None where no training has written it."""
        if not _IS_MODEL(meta):
            return None
        spans = Spans.of(meta["interval"], PARAMETERS)
        if asdict(spans) != {key: _tuple(value) for key, value in meta["spans"].items()}:
            return None
        parts = {
            "spans": spans,
            "hours": Hours(**meta["hours"]),
            "together": Together(**meta["together"]),
            "lonely": Tail.of_json(meta["lonely"]),
            "apart": Tail.of_json(meta["apart"]),
            "single": Tail.of_json(meta["single"]),
        }
        model = cls(**(cls.plain(meta) | parts))
        return model if model.fits() else None

    def fits(self) -> bool:
        """Whether its parts fit together, as a training leaves them."""
        count, slots = len(self.names), len(self.hours.low)
        return (
            self.well_known()
            and all(len(each) == count for each in (self.scaling, self.usual))
            and all(scale > 0 for _, scale in self.scaling)
            and all(low <= high for low, high in self.usual)
            and self.critical <= self.warning
            and slots in SLOTS
            and all(
                [len(row) for row in side] == [2 * count] * slots
                for side in (self.hours.low, self.hours.high)
            )
            and len(self.together.centre) == 2 * count
            and len(self.sizes) == 3 * count
            and [len(row) for row in self.together.whitening] == [2 * count] * 2 * count
        )


MAX_SPAN = 240  # readings that a window holds
_HOURS = listed(listed(number(), 1, 2 * MAX_METRICS), 1, SLOTS[-1])
_IS_MODEL = record(
    **KNOWN,
    spans=record(
        interval=number(),
        windows=listed(whole(1, MAX_SPAN), 1),
        lasting=whole(1, MAX_SPAN),
        lookback=number(0, MAX_SPAN * YEAR),
    ),
    scaling=listed(listed(number(), 2, 2)),
    usual=listed(listed(number(), 2, 2)),
    hours=record(low=_HOURS, high=_HOURS),
    together=record(
        centre=listed(number(), 1, 2 * MAX_METRICS),
        whitening=listed(listed(number(), 1, 2 * MAX_METRICS), 1, 2 * MAX_METRICS),
    ),
    sizes=listed(number(1e-300), 1, 3 * MAX_METRICS),
    lonely=is_tail,
    apart=is_tail,
    single=is_tail,
    warning=number(),
    critical=number(),
)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
