"""The registry: what registers itself is found, also after an import that came to nothing."""

import pytest

from pyml.registry import Registry

MODULE = """
import registered
from pathlib import Path

if Path(__file__).with_name("full").exists():
    raise MemoryError

@registered.known.register
class Late:
    kind = "late"
"""


def test_an_import_that_fails_is_made_again(tmp_path, monkeypatch):
    package = tmp_path / "registered"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "late.py").write_text(MODULE)
    (package / "full").touch()
    monkeypatch.syspath_prepend(tmp_path)
    import registered

    registered.known = Registry("registered")
    with pytest.raises(MemoryError):
        registered.known.get("late")
    (package / "full").unlink()
    assert registered.known["late"].kind == "late"
    assert [one.kind for one in registered.known] == ["late"]
