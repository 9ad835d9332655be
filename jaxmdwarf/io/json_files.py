"""JSON that every reader takes: numpy's numbers made plain, no NaN, files complete or not there."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np

from jaxmdwarf.io.atomic import write_atomically


def plain_json(value: Any, *, name_classes: bool = False) -> Any:
    """`value` in what JSON has words for.

    Parameters
    ----------
    value : any
        Mappings, sequences, dataclasses, arrays, numbers of numpy and paths, as deep as it goes.
    name_classes : bool
        Whether dataclasses say what they are under ``class``, beside their fields: two solvers may
        have the same fields and not the same answers.

    Returns
    -------
    dict, list, str, int, float, bool or None
        NaN and infinities are None, for which strict readers of JSON have a word.

    Examples
    --------
    >>> plain_json({"a": np.float32(0.5), "b": (np.nan, np.arange(2)), 3: np.bool_(True)})
    {'a': 0.5, 'b': [None, [0, 1]], '3': True}
    """
    plain = partial(plain_json, name_classes=name_classes)
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        named = {"class": f"{kind.__module__}.{kind.__qualname__}"} if name_classes else {}
        return named | {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Text of `plain_json`, with a line end.

    Examples
    --------
    >>> to_json({"snr": float("inf")}, indent=None)
    '{"snr": null}\\n'
    """
    return json.dumps(plain_json(value), indent=indent, allow_nan=False) + "\n"


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 2) -> None:
    """Write `to_json` of `value`, atomically."""
    with write_atomically(path) as temporary:
        temporary.write_text(to_json(value, indent=indent), encoding="utf-8")
