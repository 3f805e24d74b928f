"""Ctrl-C at a moment of our own choosing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted:
    """True once an interrupt has come."""

    def __init__(self) -> None:
        self.flag = False

    def __bool__(self) -> bool:
        return self.flag


@contextmanager
def deferred_interrupt() -> Iterator[Interrupted]:
    """Note the first Ctrl-C instead of raising, so that a step under way can end and be saved; a second one raises.

    Outside the main thread, where Python delivers no signals, and where interrupts are ignored or handled outside of
    Python, the result stays false.
    """
    interrupted = Interrupted()
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous in (None, signal.SIG_IGN):
        yield interrupted
        return

    def note(number: int, frame: object) -> None:
        interrupted.flag = True
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)
