"""Signals that ask a command to stop, and do so even where the first exception was lost."""

from __future__ import annotations

import signal
import sys
from typing import Any

AGAIN_S = 1.0
"""After how many seconds a command that does not stop is told again."""

_told = False


def stop_when_told() -> None:
    """Let SIGTERM, as batch systems send it, and a lost terminal end work as Ctrl-C does.

    `KeyboardInterrupt` is raised wherever the main thread is. In a callback of the garbage
    collector, of a weak reference or of a library in another language Python prints or drops what
    is raised and goes on, so that it is raised again each second until it is on its way.
    """
    signal.signal(signal.SIGTERM, _stop)
    # Whoever started it in the background or with nohup wants it to go on.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _stop)


def was_told() -> bool:
    """Whether the command was told to stop."""
    return _told


def rest() -> None:
    """The command has ended: it need not be told again, and who tells it changes nothing."""
    if not _told:
        return
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is _stop:
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _stop(number: int, frame: Any) -> None:
    global _told
    _told = True
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, _stop_again)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S, AGAIN_S)
    _stop_again(number, frame)


def _stop_again(number: int, frame: Any) -> None:
    # Neither the timer nor who presses Ctrl-C once more is to stop what closes processes and files.
    # An iterator may be closed for other reasons, too: then the next time ends the command.
    if not _is_ending(sys.exc_info()[1]):
        raise KeyboardInterrupt


def _is_ending(error: BaseException | None) -> bool:
    """Whether an exception that is being handled, or one that it came of, ends work."""
    # Iterators of a frame that is left are closed before its exception is handled anywhere.
    ends = (KeyboardInterrupt, GeneratorExit)
    while error is not None and not isinstance(error, ends):
        error = error.__cause__ or error.__context__
    return error is not None
