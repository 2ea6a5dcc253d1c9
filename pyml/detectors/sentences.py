"""What makes a metric unusual, said in a sentence: from a name, a unit and numbers.

A unit is empty where there is none; numbers then stand alone. No score is in a sentence.
"""

from collections.abc import Sequence

from pyml.detectors.wording import figures, of, span, step

KINDS = (
    "high",
    "low",
    "high for this hour",
    "low for this hour",
    "far",
    "rose",
    "fell",
    "restless",
    "still",
    "together",
    "missing",
    "forecast",
)
"""What a reason's `kind` may be."""

Range = tuple[float, float]


def placed(name: str, unit: str, value: float, usual: Range, at_hour: Range | None) -> str:
    """Where a value is: what is usual at all hours, and at this one where that is known.

    Examples
    --------
    >>> placed("temperature", "C", 37.94, (36.2, 51.7), (48.1, 50.9))
    'temperature is 37.9 C, usually 36.2 to 51.7 C at all hours; at this hour 48.1 to 50.9 C'
    """
    place, *ends = figures(value, *usual, *(at_hour or ()))
    said = f"{name} is {of(place, unit)}, usually {_range(ends[:2], unit)}"
    if at_hour is None or ends[2:] == ends[:2]:
        return said
    return f"{said} at all hours; at this hour {_range(ends[2:], unit)}"


def far(name: str, unit: str, value: float, usual: Range, middle: float) -> str:
    """A value that is far from the middle, in a range that is usual.

    Examples
    --------
    >>> far("load", "", 57.2, (12, 61), 30)
    'load is 57.2, far from its middle of 30, though usually 12 to 61'
    """
    place, centre, *ends = figures(value, middle, *usual)
    away = f"{of(place, unit)}, far from its middle of {of(centre, unit)}"
    return f"{name} is {away}, though usually {_range(ends, unit)}"


def moved(
    name: str, unit: str, before: float, value: float, within: float, over: float, usual: Range
) -> str:
    """A value that has jumped within some seconds; how much it usually varies `over` others.

    Examples
    --------
    >>> moved("cpu", "%", 50.71, 37.9, 60.0, 900.0, (2, 5))
    'cpu fell from 50.7 to 37.9 % within 1 min; over 15 min it usually varies by 2 to 5 points'
    """
    way = "rose" if value > before else "fell"
    start, end = figures(before, value)
    said = f"{name} {way} from {start} to {of(end, unit)} within {span(within)}"
    return f"{said}; over {span(over)} it usually varies by {_range(figures(*usual), step(unit))}"


def jumped(name: str, unit: str, before: float, value: float, over: float, near: float) -> str:
    """A value that is far from the mean of those before it, and how near it usually stays.

    Examples
    --------
    >>> jumped("t", "C", 30.12, 54.6, 3600.0, 12)
    't rose from a mean of 30.1 C over the last 60 min to 54.6 C; usually it stays within 12 C'
    """
    way, (start, end) = "rose" if value > before else "fell", figures(before, value)
    said = f"{name} {way} from a mean of {of(start, unit)} over the last {span(over)}"
    usually = f"usually it stays within {of(figures(near)[0], step(unit))}"
    return f"{said} to {of(end, unit)}; {usually}"


def varied(name: str, unit: str, spread: float, over: float, usual: Range, by_hour: bool) -> str:
    """How much a value has varied, and usually does (at this hour, where that is known).

    Examples
    --------
    >>> varied("cpu", "%", 14.2, 900.0, (2, 5), False)
    'cpu varied by 14.2 points over the last 15 min; usually by 2 to 5 points'
    >>> varied("cpu", "%", 0.0, 900.0, (2, 5), True)
    'cpu stood still over the last 15 min; usually it varies by 2 to 5 points at this hour'
    """
    how, *ends = figures(spread, *usual)
    hour = " at this hour" if by_hour else ""
    usually = f"{_range(ends, step(unit))}{hour}"
    if not spread:
        return f"{name} stood still over the last {span(over)}; usually it varies by {usually}"
    return f"{_varied(name, unit, how, over)}; usually by {usually}"


def ranged(name: str, unit: str, lowest: float, highest: float, over: float, usual: Range) -> str:
    """Where a value has been before it came back.

    Examples
    --------
    >>> ranged("temperature", "C", 36.5, 80.24, 3600.0, (36.2, 51.7))
    'temperature was between 36.5 and 80.2 C over the last 60 min; usually 36.2 to 51.7 C'
    """
    low, high, *ends = figures(lowest, highest, *usual)
    between = f"between {low} and {of(high, unit)}"
    return f"{name} was {between} over the last {span(over)}; usually {_range(ends, unit)}"


def at(name: str, unit: str, value: float) -> str:
    """A metric's value beside another metric's: `cpu_usage at 88 %`."""
    return f"{name} at {of(figures(value)[0], unit)}"


def varying(name: str, unit: str, spread: float) -> str:
    """How much a metric varies beside another metric."""
    return f"{name} varying by {of(figures(spread)[0], step(unit))}"


def expected(name: str, unit: str, value: float, near: float, others: Sequence[str]) -> str:
    """A value that is not where those of others would have it.

    Examples
    --------
    >>> expected("memory", "%", 41.0, 63.2, ["cpu at 88 %"])
    'memory is 41 %; with cpu at 88 % it is usually near 63.2 %'
    """
    place, usual = figures(value, near)
    return f"{name} is {of(place, unit)}; with {_and(others)} it is usually near {of(usual, unit)}"


def expected_spread(
    name: str, unit: str, spread: float, near: float, over: float, others: Sequence[str]
) -> str:
    """Variation that is not what that of others would have it."""
    how, usual = figures(spread, near)
    usually = f"it usually varies by about {of(usual, step(unit))}"
    return f"{_varied(name, unit, how, over)}; with {_and(others)} {usually}"


def together(name: str, unit: str, value: float, usual: Range, others: Sequence[str]) -> str:
    """A value that is as usual, and seldom so beside the others.

    Examples
    --------
    >>> together("ram", "%", 41.0, (30, 70), ["cpu at 88 %", "load at 7"])
    'ram is 41 %, usual by itself (30 to 70 %), but seldom together with cpu at 88 % and load at 7'
    """
    place, *ends = figures(value, *usual)
    said = f"{name} is {of(place, unit)}, usual by itself ({_range(ends, unit)})"
    return f"{said}, but seldom together with {_and(others)}"


def own_past(unit: str, spread: float, over: float) -> str:
    """What the value of a single metric is seldom together with."""
    return f"a variation by {of(figures(spread)[0], step(unit))} over the last {span(over)}"


def missing(name: str, unit: str, usual: Range) -> str:
    """A value that is not there.

    Examples
    --------
    >>> missing("load", "", (1, 1))
    'load is missing; usually 1'
    """
    return f"{name} is missing; usually {_range(figures(*usual), unit)}"


def forecast(name: str, unit: str, value: float, predicted: float, interval: Range) -> str:
    """A value outside its forecast.

    Examples
    --------
    >>> forecast("cpu", "%", 99.0, 31.24, (24.1, 38.3))
    'cpu is 99 %; the forecast was 31.2 %, between 24.1 and 38.3 %'
    """
    place, middle, low, high = figures(value, predicted, *interval)
    said = f"{name} is {of(place, unit)}; the forecast was {of(middle, unit)}"
    return f"{said}, between {low} and {of(high, unit)}"


def _range(ends: Sequence[str], unit: str) -> str:
    low, high = ends
    return of(low if low == high else f"{low} to {high}", unit)


def _varied(name: str, unit: str, spread: str, over: float) -> str:
    return f"{name} varied by {of(spread, step(unit))} over the last {span(over)}"


def _and(others: Sequence[str]) -> str:
    return " and ".join(others)
