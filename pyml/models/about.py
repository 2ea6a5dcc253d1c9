"""What is stored beside a model: its training's window, parameters, figures and versions."""

import functools
from typing import Any, TypedDict, TypeGuard

from pyml.forms import document, number, record, whole

LIBRARIES = ("numpy", "scikit-learn", "tensorflow", "keras", "joblib")
# Bytes of JSON beside a model. Metrics take up to 2 KB each in the parameters; figures some 600.
LONGEST_PARAMETERS, LONGEST_FIGURES = 1 << 20, 1 << 16


class About(TypedDict):
    """What is stored beside a model, as a worker hands it in: of the form `ABOUT`."""

    window_start: float
    window_end: float
    readings_used: int
    readings_rejected: int
    parameters: dict[str, Any]
    figures: dict[str, Any]
    versions: dict[str, str | None]
    seconds: float


# The moments in seconds, within what PostgreSQL knows.
_MOMENT, _COUNT = number(-2e11, 9e12), whole(0, 2**31 - 1)
ABOUT = {
    "window_start": _MOMENT,
    "window_end": _MOMENT,
    "readings_used": _COUNT,
    "readings_rejected": _COUNT,
    "parameters": document(LONGEST_PARAMETERS),
    "figures": document(LONGEST_FIGURES),
    "versions": document(LONGEST_FIGURES),
    "seconds": number(0),
}
_IS_ABOUT = record(**ABOUT)


def is_about(value: Any) -> TypeGuard[About]:
    """Whether a value is what `Trained.about` gives and JSON kept."""
    return _IS_ABOUT(value)


@functools.cache
def versions() -> dict[str, str | None]:
    """What is installed of each library; TensorFlow comes as one of two packages."""
    from importlib import metadata  # slow to load, and a backend that scores has no need of it

    def of(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    found = {name: of(name) for name in LIBRARIES}
    return found | {"tensorflow": of("tensorflow-cpu") or found["tensorflow"]}
