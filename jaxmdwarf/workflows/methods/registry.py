"""Transfer methods by name: ours, and those that users register. Importing this imports no JAX."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

from jaxmdwarf.errors import UsageError

if TYPE_CHECKING:
    from jaxmdwarf.workflows.methods.base import TransferMethod

_METHODS: dict[str, str | type[TransferMethod]] = {
    "matched": "jaxmdwarf.workflows.methods.matched:Matched",
    "cyclestar": "jaxmdwarf.workflows.methods.cyclestar:CycleStar",
    "matched+cyclestar": "jaxmdwarf.workflows.methods.cyclestar:MatchedThenCycleStar",
}
"""Classes, or where they are: commands list the names without importing what trains."""


def list_transfer_methods() -> tuple[str, ...]:
    """Names that `find_transfer_method` knows, in the order of their registration."""
    return tuple(_METHODS)


def register_transfer_method(method: type[TransferMethod]) -> type[TransferMethod]:
    """Make a method known under its `name`; a class decorator.

    Parameters
    ----------
    method : subclass of TransferMethod

    Raises
    ------
    UsageError
        If another method has that name.
    """
    known = _METHODS.get(method.name)
    where = f"{method.__module__}:{method.__qualname__}"
    if known is not None and known not in (method, where):
        raise UsageError(
            f"a transfer method {method.name!r} is registered already.", "give it another name."
        )
    _METHODS[method.name] = method
    return method


def find_transfer_method(name: str) -> type[TransferMethod]:
    """The class of a method.

    Raises
    ------
    UsageError
        If there is no such method; names those there are.
    """
    if name not in _METHODS:
        near = difflib.get_close_matches(name, _METHODS, n=1)
        guess = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(
            f"method {name!r} is unknown.{guess}", f"use one of {', '.join(_METHODS)}."
        )
    found = _METHODS[name]
    if isinstance(found, str):
        module, attribute = found.split(":")
        found = getattr(importlib.import_module(module), attribute)
        _METHODS[name] = found
    return found


def build_transfer_method(method: str | TransferMethod, **options: Any) -> TransferMethod:
    """A method from its name and the few settings that commands offer; objects pass through.

    Parameters
    ----------
    method : str or TransferMethod
    **options
        Fields of `jaxmdwarf.workflows.methods.base.MethodOptions`.

    Examples
    --------
    >>> build_transfer_method("matched", seed=3).settings.seed
    3
    """
    if not isinstance(method, str):
        return method
    found = find_transfer_method(method)
    from jaxmdwarf.workflows.methods.base import MethodOptions

    return found.build(MethodOptions(**options))
