"""Type checks that cost little: made when a function is first called, of shapes only where needed.

jaxtyping binds the arguments of every function anew at each call, to compare the shapes of arrays
with each other. Functions without arrays, most of the package, are left to beartype alone; both
raise `jaxtyping.TypeCheckError`. Arguments of types and shapes that have passed a few times pass.
"""

import re
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

_ARRAYS = re.compile(r"\b(Array|Bool|Float|Int|Integer|Key|Num|PyTree|Shaped)\b")
_ENOUGH = 3
"""So many calls with arguments of the same types and shapes are checked, their results included."""

_CONTAINERS = frozenset((tuple, list, dict, set))

_check = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def check_types(function: Any) -> Any:
    """What beartype makes of a function, which takes it some milliseconds, but later."""
    if not callable(function) or isinstance(function, type):
        return _check(function)
    checked: list[Callable[..., Any]] = []

    @wraps(function)
    def check(*args: Any, **kwargs: Any) -> Any:
        if not checked:
            function.__annotations__ = _resolve_hints(function)
            checked.append(_check(function))
        return checked[0](*args, **kwargs)

    return _check_often(function, check)


def _check_often(function: Callable[..., Any], check: Callable[..., Any]) -> Callable[..., Any]:
    """`check` until it has seen enough of what it is given, then the function as it is."""
    passed: dict[Any, int] = {}

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        values = (*args, *kwargs.values())
        # What containers hold is looked at each time.
        if not _CONTAINERS.isdisjoint(map(type, values)):
            return check(*args, **kwargs)
        kinds = (tuple(kwargs), *map(_kind_of, values))
        n_passed = passed.get(kinds, 0)
        if n_passed >= _ENOUGH:
            return function(*args, **kwargs)
        result = check(*args, **kwargs)
        passed[kinds] = n_passed + 1
        return result

    return call


def _kind_of(value: Any) -> Any:
    """All of a value, no container, that hints look at."""
    if isinstance(value, str):
        return value
    shape = getattr(value, "shape", None)
    kind = type(value)
    return kind if shape is None else (kind, shape, getattr(value, "dtype", None))


def _resolve_hints(function: Any) -> dict[str, Any]:
    """Hints as objects; any object will do where a name is known to static checks alone."""
    hints = dict(function.__annotations__)
    for name, hint in hints.items():
        while isinstance(hint, str):  # an alias may be a text again
            try:
                hint = eval(hint, function.__globals__)
            except NameError:
                hint = Any
        hints[name] = Any if "ForwardRef(" in repr(hint) else hint
    return hints


def spare_functions_without_arrays() -> None:
    """Have the import hook of jaxtyping leave functions to `check_types` that have no shapes."""
    check_shapes = jaxtyping.jaxtyped

    def check(function: Any = None, *, typechecker: Any) -> Any:
        if function is None:
            return partial(check, typechecker=typechecker)
        if isinstance(function, type):
            return check_shapes(function, typechecker=typechecker)
        hints = function.__annotations__
        if not hints:
            return function
        if not any(_ARRAYS.search(str(hint)) for hint in hints.values()):
            return check_types(function)
        return _check_often(function, check_shapes(function, typechecker=typechecker))

    jaxtyping.jaxtyped = check
