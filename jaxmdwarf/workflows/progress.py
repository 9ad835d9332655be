"""How long work tells the world how far it is, without knowing about terminals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable


@runtime_checkable
class Task(Protocol):
    """One stage of work in progress."""

    def advance(self, n: float | int = 1.0, *, note: str = "") -> None:
        """Record that `n` more units are done; `note` is a short live text (a loss, a rate)."""


@runtime_checkable
class Progress(Protocol):
    """Where stages report; the command line shows bars, tests and notebooks stay silent."""

    def stage(self, title: str, total: float | int | None = None):
        """Context manager yielding a `Task` of `total` units (None: unknown)."""

    def say(self, text: str) -> None:
        """Show one line of information."""


class _SilentTask:
    def advance(self, n: float | int = 1.0, *, note: str = "") -> None:
        pass


class Silent:
    """A `Progress` that shows nothing."""

    @contextmanager
    def stage(self, title: str, total: float | int | None = None) -> Iterator[_SilentTask]:
        """Yield a task that ignores its advances."""
        yield _SilentTask()

    def say(self, text: str) -> None:
        """Drop `text`."""
