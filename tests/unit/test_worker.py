"""Work beside the caller's thread: its result, its errors, its end."""

import signal
import threading
import time

import pytest

from pyml import background


class Cancelled(Exception):
    pass


def test_the_result_comes_back():
    assert background.run(lambda pulse: 42, lambda: None) == 42


def test_an_error_of_the_work_comes_back():
    with pytest.raises(ZeroDivisionError):
        background.run(lambda pulse: 1 / 0, lambda: None)


def test_the_caller_polls_while_the_work_rests():
    polls = []

    def work(pulse):
        for _ in range(10):
            pulse()
        return "done"

    assert background.run(work, lambda: polls.append(threading.current_thread())) == "done"
    assert len(polls) >= 10
    assert set(polls) == {threading.main_thread()}


def test_what_the_poll_raises_stops_the_work():
    reached = []

    def work(pulse):
        while True:
            reached.append(time.monotonic())
            pulse()

    def poll():
        if len(reached) > 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        background.run(work, poll)
    count = len(reached)
    time.sleep(0.05)
    assert len(reached) == count
    assert not [t for t in threading.enumerate() if t.name == "pyml"]


def test_a_cancel_during_a_long_call_waits_for_its_end():
    def work(pulse):
        time.sleep(0.5)
        pulse()
        pytest.fail("the work went on")

    def poll():
        raise Cancelled

    with pytest.raises(Cancelled):
        background.run(work, poll)


def test_the_work_takes_no_signal():
    def work(pulse):
        inner = []
        child = threading.Thread(target=lambda: inner.append(signal.pthread_sigmask(0, [])))
        child.start()
        child.join()
        return signal.pthread_sigmask(signal.SIG_BLOCK, []), inner[0]

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    for mask in background.run(work, lambda: None):
        assert {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP} <= mask
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_preparing_ends_before_the_call_does():
    done = []
    background.prepare(lambda: done.append(1), lambda: None)
    assert done == [1]


def test_preparing_goes_on_when_its_caller_gives_up_and_the_next_waits_for_it():
    release, order = threading.Event(), []

    def slow():
        release.wait()
        order.append("first")

    def give_up():
        raise Cancelled

    with pytest.raises(Cancelled):
        background.prepare(slow, give_up)
    assert order == []
    release.set()
    background.prepare(lambda: order.append("second"), lambda: None)
    assert order == ["first", "second"]


def test_an_error_while_preparing_comes_back():
    with pytest.raises(ZeroDivisionError):
        background.prepare(lambda: 1 / 0, lambda: None)
