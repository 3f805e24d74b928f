"""Ctrl-C and SIGTERM: at a moment of our own choosing, or as exceptions."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

TERMINATED = 128 + signal.SIGTERM  # exit code of a run that SIGTERM stopped, as shells report it


class Interrupted:
    """True once a signal has come.

    Attributes:
        signal: number of the signal.
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
    """Note the first Ctrl-C or SIGTERM, so that a step under way can end and be saved; a second one acts at once.

    Schedulers and ``docker stop`` send SIGTERM some seconds before they kill a process. A signal that is ignored or
    handled outside of Python is left alone, as are all signals outside the main thread, where Python delivers none.
    """
    interrupted = Interrupted()
    previous = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        previous = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number: int, frame: object) -> None:
        interrupted.signal = number
        restore()

    for number in previous:
        signal.signal(number, note)
    try:
        yield interrupted
    finally:
        restore()


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Clean up at SIGTERM as after a Ctrl-C, and then raise SystemExit(143); in the main thread only."""
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
