"""How long work tells the world how far it is, without knowing about terminals."""

from __future__ import annotations

import time
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
    """Where stages report; the command line shows bars or lines, tests and notebooks are silent."""

    def stage(
        self, title: str, total: float | int | None = None, *, unit: str = "", done: float | int = 0
    ):
        """Context manager yielding a `Task`.

        Parameters
        ----------
        title : str
            What is done: "fitting spectra".
        total : float or int, optional
            Units of work; None where nobody knows.
        unit : str
            What is counted, in the plural: "spectra".
        done : float or int
            Units that an earlier run did; they count as done and not for the rate.
        """

    def say(self, text: str) -> None:
        """Show one line of information."""


class _SilentTask:
    def advance(self, n: float | int = 1.0, *, note: str = "") -> None:
        pass


class Silent:
    """A `Progress` that shows nothing."""

    @contextmanager
    def stage(
        self, title: str, total: float | int | None = None, *, unit: str = "", done: float | int = 0
    ) -> Iterator[_SilentTask]:
        """Yield a task that ignores its advances."""
        yield _SilentTask()

    def say(self, text: str) -> None:
        """Drop `text`."""


_STEPS_OF_COMPILATION = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


class CompileClock:
    """Seconds that this process has spent on tracing and compiling JAX programs.

    JAX reports each step when it ends, inner ones before outer ones: what overlaps counts once.

    Examples
    --------
    >>> clock = CompileClock.start()
    >>> clock.seconds
    0.0
    """

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []

    @classmethod
    def start(cls) -> CompileClock:
        """A clock that runs from now on."""
        import jax.monitoring

        global _heard
        if not _heard:
            # Not every version of JAX takes listeners off again: one serves all clocks.
            jax.monitoring.register_event_duration_secs_listener(_notice_compilation)
            _heard = True
        clock = cls()
        _running.append(clock)
        return clock

    def stop(self) -> float:
        """Stop counting; the seconds."""
        if self in _running:
            _running.remove(self)
        return self.seconds

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return sum((end - start for start, end in self._spans), 0.0)

    def _add(self, start: float, end: float) -> None:
        while self._spans and self._spans[-1][0] >= start:
            self._spans.pop()
        if self._spans:
            start = max(start, self._spans[-1][1])
        self._spans.append((start, max(start, end)))


_heard = False
_running: list[CompileClock] = []


def _notice_compilation(event: str, duration_secs: float, **kwargs: str | int) -> None:
    if event in _STEPS_OF_COMPILATION:
        now = time.perf_counter()
        for clock in _running:
            clock._add(now - duration_secs, now)
