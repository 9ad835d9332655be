"""Type checks that are made when a function is first called: most never are in one worker."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from beartype import beartype


def check_types(function: Any) -> Any:
    """What `beartype.beartype` makes of a function, which takes it some milliseconds, but later."""
    if not callable(function) or isinstance(function, type):
        return beartype(function)
    checked: list[Callable[..., Any]] = []

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not checked:
            checked.append(beartype(function))
        return checked[0](*args, **kwargs)

    return call
