"""The errors that a caller can meet, one class for each SQLSTATE.

Each is raised once, where the fact is known, with everything that the user
needs: what is wrong, a DETAIL with the numbers, and a HINT that is the next
statement to type.
"""

from typing import ClassVar


class PymlError(Exception):
    """An error that a client can branch on.

    Parameters
    ----------
    message : str
        What is wrong, in one sentence.
    detail : str, optional
        The numbers behind it.
    hint : str, optional
        The next statement to type.
    """

    sqlstate: ClassVar[str]

    def __init__(self, message: str, *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint

    def as_dict(self) -> dict[str, str | None]:
        """What the function in SQL raises, as data: no traceback comes with it."""
        return {
            "sqlstate": self.sqlstate,
            "message": self.message,
            "detail": self.detail,
            "hint": self.hint,
        }


class NotEnoughData(PymlError):
    """Fewer usable readings than a model needs.

    Attributes
    ----------
    hours : int
        How long a training would have to look back, where that can be told; else 0.
    """

    sqlstate = "ML001"
    hours: int = 0


class ModelNotFound(PymlError):
    """No such model, or none in force for the device."""

    sqlstate = "ML002"


class UnknownField(PymlError):
    """A field that no reading has, or whose values are not numbers."""

    sqlstate = "ML003"


class BadArgument(PymlError):
    """An argument or a setting outside its range."""

    sqlstate = "ML004"


class UnreadableModel(PymlError):
    """A stored model that fails its checks.

    Attributes
    ----------
    model_id : int or None
        Which one, where it is a row of `ml_model`.
    """

    sqlstate = "ML005"
    model_id: int | None = None


class BrokenEnvironment(PymlError):
    """A package that is missing or of another version than the SQL."""

    sqlstate = "ML006"


class OutOfMemory(PymlError):
    """The server, or a limit on the backend, gives no more memory."""

    sqlstate = "53200"


class TooDeep(PymlError):
    """Calls within calls, or a document within documents, deeper than Python goes."""

    sqlstate = "54001"


def translated(error: Exception) -> Exception:
    """The error to report: for want of memory or of stack, one with an SQLSTATE."""
    if isinstance(error, RecursionError):
        return TooDeep(
            "calls or documents are nested too deeply",
            detail="A history that is a view which calls pyml does that.",
            hint="SELECT * FROM ml_setting WHERE name = 'history_table';",
        )
    if not isinstance(error, MemoryError):
        return error
    return OutOfMemory(
        "out of memory",
        detail=f"{str(error) or 'An allocation failed'}.",
        hint="Reconnect, and call again when the server has memory to spare.",
    )


def unreadable(why: str) -> UnreadableModel:
    """The error for a stored model that differs from what trainings write."""
    return UnreadableModel("the stored model cannot be read", detail=f"Found: {why}.")
