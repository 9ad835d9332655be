"""Models as users give them: a directory, a loaded model, or what a training returned."""

from __future__ import annotations

import os
from typing import Any

from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.models import load_model
from jaxmdwarf.models.base import ForwardModel


def as_model(model: Any, what: str = "model") -> ForwardModel:
    """The forward model that `model` is, holds, or names.

    Parameters
    ----------
    model : ForwardModel, path, None, or an object with an attribute ``model``
        The last is what `jaxmdwarf.train_emulator` and `jaxmdwarf.train_transfer` return; None is
        the model that comes with the package.
    what : str
        Name of the argument, for the error.

    Raises
    ------
    UsageError
        If it is none of these, or there is no such directory.
    FormatError
        If the directory holds no model that this version reads.
    """
    if model is None or isinstance(model, str | os.PathLike):
        return load_model(model)
    if isinstance(model, ForwardModel):
        return model
    held = getattr(model, "model", None)
    if isinstance(held, ForwardModel):
        return held
    raise UsageError(
        f"{what} is a {type(model).__name__}, which is no model.",
        "give a model directory, or what jm.load_model returns.",
    )
