"""Paths: where in a reported state a value stands, as people write it.

Parts are parted by dots: ``system.cpuUsage``, ``sensors.0.value``. A key that holds a dot or a
bracket, or is empty, is written in double quotes, a quote in it twice: ``"my.key".value``. An
element of an array may be called by what one of its keys says: ``sensors[name=t1].value``.
`_ml_parts` reads them the same in SQL.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

_QUOTED = r'"((?:[^"]|"")*)"'
_NAME = rf'(?:{_QUOTED}|([^]=."[]+))'
_KEY = re.compile(_QUOTED)
# A bracket that begins no element is a character like others.
_PLAIN = re.compile(rf'(?!")(?:[^.[]|\[(?!{_NAME}=))+')
_ELEMENT = re.compile(rf'\[{_NAME}=(?:{_QUOTED}|([^]"][^]]*))\]')
# What is written without quotes; `_ml_numbers_in` does the same.
_PLAINLY = re.compile(r'[^]\s.="[]+')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?")


@dataclass(frozen=True, slots=True)
class Element:
    """The first object of an array whose `key` is the text `value`, or the number that it says."""

    key: str
    value: str

    @property
    def jsonpath(self) -> str:
        """As PostgreSQL takes it. JSON's way to quote a text is one of jsonpath's."""
        key, value = (json.dumps(text, ensure_ascii=False) for text in (self.key, self.value))
        same = f"@.{key} == {value}"
        if _NUMBER.fullmatch(self.value):
            same += f" || @.{key} == {self.value}"
        # Strict: a lax one would also look into what is no array, and into arrays of arrays.
        return f"strict $[*] ? ({same})"


Part = str | Element


def _plain(quoted: str | None, bare: str) -> str:
    return bare if quoted is None else quoted.replace('""', '"')


def parsed(path: str) -> tuple[Part, ...] | None:
    """The parts of a path; None where it is not written as one."""
    parts: list[Part] = []
    place = 0
    while True:
        # The state itself may be an array.
        if place or not _ELEMENT.match(path):
            found = _KEY.match(path, place) or _PLAIN.match(path, place)
            if found is None:
                return None
            parts.append(_plain(found[1] if found[0][0] == '"' else None, found[0]))
            place = found.end()
        while found := _ELEMENT.match(path, place):
            parts.append(Element(_plain(found[1], found[2]), _plain(found[3], found[4])))
            place = found.end()
        if place == len(path):
            return tuple(parts)
        if path[place] != ".":
            return None
        place += 1


def parts_of(path: str) -> tuple[Part, ...]:
    """The parts of a path; what is not written as one is parted at its dots."""
    if '"' not in path and "[" not in path:
        return tuple(path.split("."))
    return parsed(path) or tuple(path.split("."))


def _written(text: str) -> str:
    return text if _PLAINLY.fullmatch(text) else '"' + text.replace('"', '""') + '"'


def written(parts: Iterable[Part]) -> str:
    """A path of these parts; `parsed` gives them back."""
    steps = [
        f"[{_written(part.key)}={_written(part.value)}]"
        if isinstance(part, Element)
        else "." + _written(part)
        for part in parts
    ]
    return "".join(steps).removeprefix(".")
