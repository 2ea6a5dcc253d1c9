"""What a process needs for its work: threads beside the one that polls, and memory.

Long work goes on in a thread of its own, while the caller's thread goes on polling.

A PostgreSQL backend handles a cancel in its main thread, between statements; C code
that Python calls gives it no chance to. The work runs beside it, and the main thread
polls.
"""

import contextlib
import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from mmap import mmap
from typing import TypeVar

T = TypeVar("T")

Pulse = Callable[[], None]
"""Called several times a second during long work; what it raises ends that."""

# A poll is due this often while the work is in one long call, in seconds.
PATIENCE = 0.2
# Signals that report a fault of the thread itself cannot be blocked with meaning.
FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}

# Bytes that a call needs at hand beyond its arrays, many times over.
ROOM = 32 << 20

# What an earlier `prepare` left going on, if its caller gave up on it.
_going_on: threading.Thread | None = None


class Stopped(BaseException):
    """Raised in the work by `pulse` once the caller has given up on it."""


def run(work: Callable[[Pulse], T], poll: Callable[[], object]) -> T:
    """Result of ``work(pulse)``, while `poll` is called several times a second.

    The work calls `pulse` when it can be interrupted: it then waits there, doing
    nothing, while the caller's thread polls. Every thread that the work starts
    inherits a mask that blocks all signals, so that none of them takes a signal
    meant for the caller's thread.

    Parameters
    ----------
    work : callable
        Runs in the other thread; must not touch what belongs to the caller's.
    poll : callable
        Runs in the caller's thread; what it raises stops the work.

    Raises
    ------
    Whatever `work` or `poll` raises.
    """
    asked, answered, stopping = threading.Event(), threading.Event(), threading.Event()
    outcome: list[T] = []
    failure: list[BaseException] = []

    def pulse() -> None:
        asked.set()
        answered.wait()
        answered.clear()
        if stopping.is_set():
            raise Stopped

    def body() -> None:
        try:
            outcome.append(work(pulse))
        except BaseException as error:
            failure.append(error)
        finally:
            asked.set()

    thread = threading.Thread(target=body, name="pyml", daemon=True)
    _start(thread)
    try:
        while thread.is_alive():
            at_rest = asked.wait(PATIENCE)
            poll()
            if at_rest:
                asked.clear()
                answered.set()
    finally:
        stopping.set()
        answered.set()
        while thread.is_alive():
            # A pulse may begin just now; it finds the flag set and stops.
            answered.set()
            thread.join(0.01)
    if failure:
        raise failure[0]
    return outcome[0]


def prepare(work: Callable[[], object], poll: Callable[[], object]) -> None:
    """Do what cannot be interrupted and need not be undone, such as an import.

    When `poll` raises, the caller goes on at once and the work finishes by itself;
    the next `prepare` waits for it first.

    Raises
    ------
    Whatever `work` or `poll` raises.
    """
    global _going_on
    failure: list[BaseException] = []

    def body() -> None:
        try:
            work()
        except BaseException as error:
            failure.append(error)

    def await_it(thread: threading.Thread) -> None:
        while thread.is_alive():
            thread.join(PATIENCE)
            poll()

    if _going_on is not None:
        await_it(_going_on)
    _going_on = threading.Thread(target=body, name="pyml", daemon=True)
    _start(_going_on)
    await_it(_going_on)
    _going_on = None
    if failure:
        raise failure[0]


def require_room(size: int = ROOM) -> None:
    """Ask for so many bytes, and give them back.

    Raises
    ------
    MemoryError
        The process cannot have them.
    """
    try:
        mmap(-1, size).close()
    except OSError as error:
        raise MemoryError(str(error)) from error


def trim() -> None:
    """Give back to the system what the arrays of a training left free between others.

    The allocator keeps it, some 0.2 MB for each LSTM, and a backend may live for weeks. After
    a forest there is no more of it each time, and to ask for it anew takes a twentieth of the
    next training.
    """
    with contextlib.suppress(AttributeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _start(thread: threading.Thread) -> None:
    """Start a thread that, like all that it starts in turn, has every signal blocked."""
    with deaf():
        try:
            thread.start()
        except RuntimeError as error:  # which Python raises where there is no room for its stack
            raise MemoryError(str(error)) from error


@contextmanager
def deaf() -> Iterator[None]:
    """Block every signal in this thread, and so in all threads that are started meanwhile."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - FAULTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
