"""What an Isolation Forest is tuned by, and what a stored one knows."""

from dataclasses import asdict, dataclass
from typing import Any

from pyml.detectors.base import KNOWN, Known
from pyml.forms import MAX_METRICS, YEAR, listed, number, record, whole
from pyml.parameters import parameter

Matrix = list[list[float]]
"""Rows of numbers, as JSON has them."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the forest is tuned by.

    "8 machines" are the eight of the Server Machine Dataset in bench/, at a reading a minute. A
    range is what was tried on them; ranks moved by less than a hundredth within it unless said
    otherwise.
    """

    windows: tuple[int, ...] = parameter(
        (5, 15, 60, 240),
        "trailing windows, in readings of a device that reports once a minute; each gives a "
        "spread, the first a level too",
        "8 machines; a level of five readings gives a fifth fewer false alarms than single ones",
    )
    jump_windows: tuple[int, ...] = parameter(
        (15, 60),
        "windows whose mean of the other readings a jump is measured from",
        "8 machines; 15 or 60 alone rank alike",
    )
    jump_half_life: int = parameter(
        7,
        "readings in which the square of a jump's distance is halved",
        "8 machines; 4 to 14 rank alike",
    )
    slowest: int = parameter(
        30,
        "minutes between readings beyond which all windows grow with the interval",
        "the longest window then has eight readings",
    )
    greatest_distance: float = parameter(
        4096.0,
        "squared distances are cut off here",
        "far beyond usual ones; a jump is forgotten after 25 half-lives, within the longest window",
    )
    calm: float = parameter(
        0.05,
        "least spread beside which a jump is measured, in usual sizes of the metric",
        "8 machines",
    )
    sudden: tuple[float, float] = parameter(
        (3.0, 9.0),
        "how sudden a jump is from which, and to which, it bounds the score; one in a hundred "
        "exceeds 3",
        "8 machines; took events found at 5 false alarms a day from .895 to .905",
    )
    sudden_score: tuple[float, float] = parameter(
        (-0.5, -0.68),
        "the greatest score at either end of `sudden`",
        "8 machines: above what is ordinary, and beyond most limits",
    )
    far: tuple[float, float] = parameter(
        (4.0, 9.0),
        "how rare a distance of the levels is from which, and to which, it bounds the score, as "
        "powers of ten",
        "three kinds of machines: from 3 to 6 a change of regime is flagged for 83 % of a day",
    )
    persistence_window: int = parameter(
        90,
        "readings over which the mean score shows that trouble lasts",
        "8 machines; 60 to 240 were tried",
    )
    persistence_from: float = parameter(
        -0.6,
        "mean score below which trouble lasts; a usual mean is -0.45",
        "8 machines",
    )
    persistence_gain: float = parameter(
        2.0, "how much of the mean score beyond it is added", "8 machines"
    )
    persistence_most: float = parameter(
        0.06, "most that lasting trouble lowers a score", "8 machines; 0.03 to 0.1 were tried"
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
    counted_blocks: tuple[int, int] = parameter(
        (1, 4),
        "which blocks' limits count, from the strictest: the second to the fourth",
        "8 machines: .5 to 1.3 % of normal readings flagged where 1 % is asked for",
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
        "share of the training's levels and jumps, the farthest, that do not count as usual",
        "8 machines; up to .06 was tried",
    )
    fault_blocks: int = parameter(
        2, "a state that no more than so many blocks have seen is a fault", "8 machines"
    )
    fault_share: float = parameter(
        0.1, "most readings, as a share, that are left out as faults", "8 machines; .03 to .1"
    )
    least_variance: float = parameter(
        0.01,
        "least variance of a combination of metrics: metrics that always move together may part "
        "by a tenth of their usual size",
        "sample fleet: a tighter whitening finds less",
    )


PARAMETERS = Parameters()

# Fixed point for sums over trailing windows: whole numbers add up to the same sum from wherever
# the window starts; floating ones do not.
UNIT = 4096


@dataclass(frozen=True, slots=True)
class Spans:
    """How far back the features of a reading look.

    Attributes
    ----------
    interval : float
        Seconds between two readings.
    windows : tuple of int
        Trailing windows, in intervals, increasing.
    level : int
        The window whose mean is the level.
    before : tuple of int
        Windows whose mean a jump is measured from.
    half_life : float
        Of a jump, in intervals.
    lasting : int
        The window of lasting trouble, in intervals.
    lookback : float
        Seconds before a reading that its score depends on.
    """

    interval: float
    windows: tuple[int, ...]
    level: int
    before: tuple[int, ...]
    half_life: float
    lasting: int
    lookback: float

    @classmethod
    def of(cls, interval: float, p: Parameters) -> "Spans":
        """Those of a device that reports once in `interval` seconds.

        Windows are minutes for a device that reports less often than once a minute. A level
        takes one reading at least, a spread two; beyond ``p.slowest`` minutes between readings
        all windows grow with the interval. For a device that reports more often they are readings.
        """
        slower = min(max(interval / 60.0, 1.0), p.slowest)
        windows, before = (
            tuple(sorted({max(2, round(window / slower)) for window in spans}))
            for spans in (p.windows, p.jump_windows)
        )
        lasting = round(p.persistence_window / slower)
        return cls(
            interval,
            windows,
            max(1, round(p.windows[0] / slower)),
            before,
            p.jump_half_life / slower,
            lasting,
            (windows[-1] + lasting) * interval,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Known):
    """What a stored forest knows beside its trees; m metrics.

    Attributes
    ----------
    spans : Spans
    scaling : list, shape (m, 2)
        Median and robust scale of each metric.
    usual : list, shape (m, 2)
        The range of each metric's usual values.
    level_whitening, jump_whitening : list, shapes (m, m) and (k, k), k = m * len(spans.before)
        After these, usual levels and jumps are uncorrelated and of size 1.
    jump_sizes, sudden_sizes : list, lengths k and 2 m
        A third of what one in a hundred jumps of each kind exceeds.
    level_tail : tuple of float, length 2
        The distance of the levels that one reading in fifty exceeds, and by how much on average.
    warning, critical : float
        Scores below these are a warning, and critical.
    """

    spans: Spans
    scaling: Matrix
    usual: Matrix
    level_whitening: Matrix
    jump_whitening: Matrix
    jump_sizes: list[float]
    sudden_sizes: list[float]
    level_tail: tuple[float, float] = (0.0, 1.0)
    warning: float = 0.0
    critical: float = 0.0

    @property
    def size(self) -> int:
        """Columns of the matrix: levels, spreads, and three distances."""
        return len(self.names) * (1 + len(self.spans.windows)) + 3

    def to_json(self) -> dict[str, Any]:
        """The stored form: one flat object."""
        found = asdict(self)
        spans: dict[str, Any] = found.pop("spans")
        return found | spans

    @classmethod
    def of_json(cls, meta: dict[str, Any]) -> "Model | None":
        """What `to_json` gave and JSON kept; None where no training has written it."""
        if not _IS_MODEL(meta):
            return None
        spans = Spans.of(meta["interval"], PARAMETERS)
        written = {key: meta.pop(key) for key in Spans.__dataclass_fields__ if key != "interval"}
        if asdict(spans) != {key: _tuple(value) for key, value in written.items()} | {
            "interval": meta["interval"]
        }:
            return None
        known = cls.plain(meta) | {"level_tail": tuple(meta["level_tail"])}
        model = cls(**known, spans=spans)
        return model if model.fits() else None

    def fits(self) -> bool:
        """Whether its parts fit together, as a training leaves them."""
        count, jumps = len(self.names), len(self.names) * len(self.spans.before)
        return (
            self.well_known()
            and all(len(each) == count for each in (self.scaling, self.usual))
            and all(scale > 0 for _, scale in self.scaling)
            and all(low <= high for low, high in self.usual)
            and self.critical <= self.warning
            and _square(self.level_whitening, count)
            and _square(self.jump_whitening, jumps)
            and self.level_tail[1] > 0
            and len(self.jump_sizes) == jumps
            and len(self.sudden_sizes) == 2 * count
        )


MAX_SPAN = 240  # readings that a window holds
_WHITENING = listed(listed(number(), 0, 2 * MAX_METRICS), 1, 2 * MAX_METRICS)
_IS_MODEL = record(
    **KNOWN,
    windows=listed(whole(1, MAX_SPAN), 1),
    level=whole(1, MAX_SPAN),
    before=listed(whole(1, MAX_SPAN), 1),
    half_life=number(1e-3, 1e6),
    lasting=whole(1, MAX_SPAN),
    lookback=number(0, 2 * MAX_SPAN * YEAR),
    level_whitening=_WHITENING,
    jump_whitening=_WHITENING,
    jump_sizes=listed(number(1e-300), 1, 2 * MAX_METRICS),
    sudden_sizes=listed(number(1e-300), 1, 2 * MAX_METRICS),
    level_tail=listed(number(), 2, 2),
    scaling=listed(listed(number(), 2, 2)),
    usual=listed(listed(number(), 2, 2)),
    warning=number(),
    critical=number(),
)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _square(matrix: Matrix, size: int) -> bool:
    return [size] * size == [len(row) for row in matrix]
