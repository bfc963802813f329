import os
import signal
import subprocess
import sys
import threading

import pytest

from biprop import interrupts
from biprop.interrupts import StopRequest, Terminated


@pytest.mark.parametrize("number", interrupts.STOP_SIGNALS)
def test_a_signal_is_noted_and_the_handlers_come_back(number: signal.Signals) -> None:
    before = [signal.getsignal(one) for one in interrupts.STOP_SIGNALS]
    with StopRequest() as stop:
        assert not stop.signal
        os.kill(os.getpid(), number)
        assert stop.signal == number
    assert before == [signal.getsignal(one) for one in interrupts.STOP_SIGNALS]


def test_ctrl_c_twice_means_at_once_unless_it_is_one_that_came_two_ways(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT
        monkeypatch.setattr(interrupts, "SECOND_INTERRUPT_DELAY", -1.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_first_signal_counts() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_before_a_search_a_signal_ends_what_runs_at_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Terminated, match=number.name), interrupts.raising():
        os.kill(os.getpid(), number)
        raise AssertionError
    assert signal.getsignal(number) == before


def test_nohup_means_it() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.raising(), StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.signal
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_has_said_how_it_ends_ends_so(number: int) -> None:
    kill = f"os.kill(os.getpid(), {number})"
    code = (
        f"import atexit, os; from biprop import interrupts; interrupts.ignore_signals(); {kill};"
        f" atexit.register(lambda: {kill})"
    )
    code += "; raise SystemExit(75)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (75, "")


def test_other_threads_note_nothing() -> None:
    seen = []

    def run() -> None:
        with StopRequest() as stop:
            seen.append((stop.signal, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(0, signal.getsignal(signal.SIGTERM))]
