"""Ctrl-C and SIGTERM: the first signal is deferred, the second acts, and previous handlers are restored."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from plastic_agents.training.interrupt import deferred_interrupt, sigterm_interrupts

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def received(monkeypatch):
    """Install handlers that record signals, and return the list of received signals."""
    numbers = []
    previous = {number: signal.signal(number, lambda number, frame: numbers.append(number)) for number in SIGNALS}
    yield numbers
    for number, handler in previous.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_the_first_signal_is_deferred_and_the_second_reaches_the_previous_handler(first, second, received):
    with deferred_interrupt() as interrupted:
        assert not interrupted
        send(first)
        assert interrupted
        assert received == []
        send(second)
        assert received == [second]


def test_the_error_names_the_signal(received):
    with deferred_interrupt() as interrupted:
        send(signal.SIGINT)
    assert isinstance(interrupted.error(), KeyboardInterrupt)
    with deferred_interrupt() as interrupted:
        send(signal.SIGTERM)
    assert isinstance(interrupted.error(), SystemExit)
    assert interrupted.error().code == 143


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("signalled", [False, True])
def test_handlers_are_restored(number, signalled, received):
    before = [signal.getsignal(signum) for signum in SIGNALS]
    with pytest.raises(RuntimeError), deferred_interrupt():
        if signalled:
            send(number)
        raise RuntimeError
    assert [signal.getsignal(signum) for signum in SIGNALS] == before


def test_an_ignored_signal_stays_ignored(received):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with deferred_interrupt() as interrupted:
        send(signal.SIGTERM)
        assert not interrupted
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_deferred_interrupt_installs_no_handlers_in_other_threads(received):
    before = [signal.getsignal(signum) for signum in SIGNALS]
    in_thread = []

    def work():
        with deferred_interrupt() as interrupted:
            in_thread.extend([signal.getsignal(signum) for signum in SIGNALS] + [bool(interrupted)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert in_thread == [*before, False]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_second_signal_ends_the_process_immediately(number, code):
    """With Python's own handlers: Ctrl-C raises KeyboardInterrupt, SIGTERM ends the process."""
    script = f"""
import os, signal
from plastic_agents.training.interrupt import deferred_interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore SIGINT
try:
    with deferred_interrupt() as interrupted:
        os.kill(os.getpid(), {int(number)})
        assert interrupted
        os.kill(os.getpid(), {int(number)})
        os._exit(3)
except KeyboardInterrupt:
    os._exit(130)
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=300).returncode == code


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_sigterm_runs_the_same_cleanup_as_ctrl_c(number, error, received):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGTERM)
    cleaned = []
    with pytest.raises(error) as raised, sigterm_interrupts():
        try:
            send(number)
        except KeyboardInterrupt:
            cleaned.append(True)
            raise
    assert cleaned
    assert signal.getsignal(signal.SIGTERM) is before
    assert received == []
    assert error is KeyboardInterrupt or raised.value.code == 143


def test_sigterm_interrupts_installs_no_handler_in_other_threads(received):
    before, in_thread = signal.getsignal(signal.SIGTERM), []

    def work():
        with sigterm_interrupts():
            in_thread.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert in_thread == [before]
