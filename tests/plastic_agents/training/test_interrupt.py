"""Ctrl-C and SIGTERM: the first is noted, the second acts, and handlers are put back."""

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
    """Signals that reached the handlers that stood before, which the tests must survive."""
    numbers = []
    previous = {number: signal.signal(number, lambda number, frame: numbers.append(number)) for number in SIGNALS}
    yield numbers
    for number, handler in previous.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_the_first_signal_is_noted_and_the_second_reaches_the_previous_handler(first, second, received):
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
def test_handlers_are_put_back(number, signalled, received):
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(RuntimeError), deferred_interrupt():
        if signalled:
            send(number)
        raise RuntimeError
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_an_ignored_signal_stays_ignored(received):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with deferred_interrupt() as interrupted:
        send(signal.SIGTERM)
        assert not interrupted
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_other_threads_install_no_handlers(received):
    before = [signal.getsignal(each) for each in SIGNALS]
    found = []

    def work():
        with deferred_interrupt() as interrupted:
            found.extend([signal.getsignal(each) for each in SIGNALS] + [bool(interrupted)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [*before, False]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_second_signal_ends_a_process_at_once(number, code):
    """With Python's own handlers: Ctrl-C raises KeyboardInterrupt, SIGTERM ends the process."""
    script = f"""
import os, signal
from plastic_agents.training.interrupt import deferred_interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's shell has it ignored
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
def test_sigterm_cleans_up_as_ctrl_c_does(number, error, received):
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


def test_other_threads_leave_sigterm_alone(received):
    before, found = signal.getsignal(signal.SIGTERM), []

    def work():
        with sigterm_interrupts():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]
