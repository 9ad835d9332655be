"""Where the time of a fit goes: stages are named here, and timed by whoever has a clock."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

T = TypeVar("T")


class Stages:
    """Names of what is being done; this class listens to none, its subclasses may.

    Examples
    --------
    >>> with Stages().stage("fits"):
    ...     pass
    """

    def stage(self, name: str) -> AbstractContextManager[None]:
        """A block of work of that name; one inside another counts for itself alone."""
        return nullcontext()

    def settle(self, values: T) -> T:
        """The same values, computed by then if the time of their stage is to be known."""
        return values
