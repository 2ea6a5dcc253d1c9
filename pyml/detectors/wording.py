"""Numbers and lengths of time as a person reads them."""

from datetime import UTC, datetime

from pyml.seconds import DAY, HOUR, MINUTE

# Digits of a number in a sentence, or as many as tell it from what it is compared with.
DIGITS, MOST_DIGITS = 3, 10
WORDS = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))
LARGEST = 1e18  # what is larger has no word
# Units of a span of time in words, the longest first, in seconds.
UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def figures(value: float, *others: float) -> list[str]:
    """Numbers as a person reads them, the first told apart from the others where it differs.

    Examples
    --------
    >>> figures(1013.27, 1013.1, 81_234_567.0, 12_345.0)
    ['1,013.3', '1,013.1', '81.235 million', '12,345']
    """
    apart = [float(f"{one:.{MOST_DIGITS}g}") for one in (value, *others)]
    found = [""]
    for digits in range(DIGITS, MOST_DIGITS + 1):
        found = [_figure(one, digits) for one in apart]
        if all(
            (text == found[0]) == (one == apart[0]) for text, one in zip(found, apart, strict=True)
        ):
            break
    return found


def span(seconds: float) -> str:
    """A length of time.

    Examples
    --------
    >>> span(60.0), span(5400.0), span(86400.0), span(7 * 86400.0)
    ('1 min', '90 min', '24 h', '7 days')
    """
    for unit, word, least in (
        (DAY, "days", 3 * DAY),
        (HOUR, "h", 3 * HOUR),
        (MINUTE, "min", MINUTE),
    ):
        if seconds >= least:
            return f"{_length(seconds / unit)} {word}"
    return f"{_length(seconds)} s"


def lasting(seconds: float) -> str:
    """A span of time in words: its two largest units, without seconds from three minutes on.

    Examples
    --------
    >>> lasting(39_840.0), lasting(181.0), lasting(90.0), lasting(0.2)
    ('11 h 4 min', '3 min', '1 min 30 s', '1 s')
    """
    left = max(1, round(seconds))
    if left >= 3 * MINUTE:
        left = round(left / MINUTE) * 60
    for i, (name, size) in enumerate(UNITS):
        below, unit = UNITS[i + 1] if size > 1 else ("", 1)
        whole, rest = divmod(round(left / unit) * unit, size)
        if not whole:
            continue
        return f"{whole} {name}" + (f" {rest // unit} {below}" if rest and below else "")
    return ""


def moment(at: float, last: float) -> str:
    """A moment in words: the time of day, with the date where it may be taken for another day's.

    Examples
    --------
    >>> moment(39_840.0, 40_000.0), moment(39_840.0, 200_000.0)
    ('11:04 UTC', '1 Jan 11:04 UTC')
    """
    when = datetime.fromtimestamp(at, UTC)
    near = last - at < 20 * HOUR
    return f"{when:%H:%M} UTC" if near else f"{day(at)} {when:%H:%M} UTC"


def day(at: float) -> str:
    """The day of a moment, without its year."""
    return f"{datetime.fromtimestamp(at, UTC):%d %b}".lstrip("0")


def of(text: str, unit: str | None) -> str:
    """A number in its unit, where there is one."""
    return f"{text} {unit}" if unit else text


def step(unit: str | None) -> str:
    """The unit of a difference."""
    return "points" if unit == "%" else unit or ""


def _length(count: float) -> str:
    return _plain(round(count, 1) if count < 9.95 else round(count), MOST_DIGITS)


def _figure(value: float, digits: int) -> str:
    for size, word in WORDS:
        if size <= abs(value) < LARGEST:
            return f"{_plain(value / size, digits)} {word}"
    return _plain(value, digits)


def _plain(value: float, digits: int) -> str:
    return f"{float(f'{value:.{digits}g}') + 0.0:,.{MOST_DIGITS}g}"
