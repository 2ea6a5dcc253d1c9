"""What is registered once under a name, by its own file, and found by all others."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import ClassVar, Generic, Protocol, TypeVar


class Kind(Protocol):
    """What has a kind: the word that stands in ``ml_model.kind``."""

    kind: ClassVar[str]


T = TypeVar("T", bound=Kind)


class Registry(Generic[T]):
    """The detectors, or the forecasters, by their kind.

    Parameters
    ----------
    package : str
        The package whose modules register themselves; they are imported when the registry is
        first asked.
    others : str
        Modules elsewhere that do so too.
    """

    def __init__(self, package: str, *others: str) -> None:
        self._package, self._others = package, others
        self._known: dict[str, T] = {}
        self._loaded = False

    def register(self, owner: type[T]) -> type[T]:
        """Take in a class, as a decorator; one instance serves all."""
        made = owner()
        self._known[made.kind] = made
        return owner

    def forget(self, kind: str) -> None:
        """Take one out again."""
        self._load()
        self._known.pop(kind, None)

    def __getitem__(self, kind: str) -> T:
        """The one of a kind.

        Raises
        ------
        KeyError
        """
        self._load()
        return self._known[kind]

    def get(self, kind: str) -> T | None:
        """The one of a kind; None where there is none."""
        self._load()
        return self._known.get(kind)

    def __contains__(self, kind: object) -> bool:
        """Whether there is one of that kind."""
        self._load()
        return kind in self._known

    def __iter__(self) -> Iterator[T]:
        """All of them, in the order of their kinds."""
        self._load()
        return iter([self._known[kind] for kind in sorted(self._known)])

    def _load(self) -> None:
        if self._loaded:
            return
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__, f"{self._package}."):
            importlib.import_module(module.name)
        for name in self._others:
            importlib.import_module(name)
        self._loaded = True  # not before: what fails for want of memory is imported the next time
