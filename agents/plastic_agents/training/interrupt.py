"""Handling of Ctrl-C and SIGTERM: deferred until a step is complete, or raised as exceptions."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

TERMINATED = 128 + signal.SIGTERM  # exit code that shells report for a process that SIGTERM ended


class Interrupted:
    """A flag that is true once a signal has arrived.

    Attributes:
        signal: number of the signal, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def error(self) -> BaseException:
        """Return the exception that ends the run: SystemExit(143) after SIGTERM, otherwise KeyboardInterrupt."""
        return SystemExit(TERMINATED) if self.signal == signal.SIGTERM else KeyboardInterrupt()


@contextmanager
def deferred_interrupt() -> Iterator[Interrupted]:
    """Record the first Ctrl-C or SIGTERM, so that the current step can end and be saved; a second one acts at once.

    Schedulers and ``docker stop`` send SIGTERM some seconds before they kill a process. This function does not change
    the handling of a signal that is ignored or handled outside Python. Outside the main thread, to which Python
    delivers all signals, it changes nothing.
    """
    interrupted = Interrupted()
    previous = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        previous = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def record(number: int, frame: object) -> None:
        interrupted.signal = number
        restore()

    for number in previous:
        signal.signal(number, record)
    try:
        yield interrupted
    finally:
        restore()


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Raise SystemExit(143) at SIGTERM, after the same clean-up as for Ctrl-C; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = []

    def interrupt(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        if received:
            raise SystemExit(TERMINATED) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)
