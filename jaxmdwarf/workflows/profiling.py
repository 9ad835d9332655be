"""Seconds that the stages of a run take."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from jaxmdwarf.inference.stages import Stages

T = TypeVar("T")


class StageClock(Stages):
    """Adds up what stages take, less what stages inside them take; threads add to one sum.

    Examples
    --------
    >>> clock = StageClock()
    >>> with clock.stage("fits"), clock.stage("preparing"):
    ...     pass
    >>> sorted(clock.seconds)
    ['fits', 'preparing']
    """

    def __init__(self) -> None:
        self._own, self._lock = threading.local(), threading.Lock()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """See `Stages`."""
        inside: list[float] = self._own.__dict__.setdefault("inside", [])
        inside.append(0.0)
        began = time.perf_counter()
        try:
            yield
        finally:
            whole = time.perf_counter() - began
            mine = whole - inside.pop()
            if inside:
                inside[-1] += whole
            with self._lock:
                self._seconds[name] = self._seconds.get(name, 0.0) + mine

    def settle(self, values: T) -> T:
        """Wait for arrays on their way."""
        import jax

        return jax.block_until_ready(values)

    @property
    def seconds(self) -> dict[str, float]:
        """By stage, the longest first."""
        with self._lock:
            ordered = sorted(self._seconds.items(), key=lambda one: -one[1])
        return {name: round(spent, 2) for name, spent in ordered}
