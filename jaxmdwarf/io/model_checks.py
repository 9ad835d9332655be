"""What a model directory may hold: every array listed and finite, every shape one that fits.

Hashes tell damage from what was written; these checks are for what was written by somebody else.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmdwarf.errors import FormatError

if TYPE_CHECKING:
    from jaxmdwarf.models.base import ForwardModel

MAX_JSON_BYTES = 64 * 1024**2
"""Largest description: metrics and provenance take some hundred kB."""

_UNREADABLE = (
    ArithmeticError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError,
    TypeError, ValueError, struct.error, zipfile.BadZipFile,
)  # fmt: skip
"""What archives and arrays that are none make `zipfile` and `numpy.load` raise."""

_AGAIN = "copy the model again from where it came, or train it again."
_LONGEST_AA = 1e7


def read_regular(path: Path, *, most: int | None = None) -> bytes:
    """Content of a file that is one; opening a named pipe would wait for ever.

    Raises
    ------
    OSError
        If it is none, or larger than `most` bytes.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path} is no regular file")
    if most is not None and status.st_size > most:
        raise OSError(f"{path} is larger than {most} bytes")
    return path.read_bytes()


def unpack_arrays(packed: bytes, listed: Mapping[str, Any], folder: Path) -> dict[str, np.ndarray]:
    """The arrays of an archive, which must be those that are listed.

    Parameters
    ----------
    packed : bytes
        As `numpy.savez` makes it: not compressed.
    listed : mapping of str to list of int
        Shapes by name.
    folder : Path
        Of the model, for errors.

    Raises
    ------
    FormatError
        If names or shapes are others, the archive expands, or values are no finite numbers.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            members = archive.infolist()
            names = [member.filename.removesuffix(".npy") for member in members]
            stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        if not stored or sum(member.file_size for member in members) > len(packed):
            raise _refuse(folder, "its arrays are compressed")
        if sorted(names) != sorted(listed):
            raise _refuse(folder, "its arrays are not those that it lists")
        with np.load(io.BytesIO(packed), allow_pickle=False) as content:
            arrays = {name: content[name] for name in names}
    except _UNREADABLE as e:
        raise _refuse(folder, f"its arrays cannot be read ({e})") from e
    for name, values in arrays.items():
        if list(values.shape) != listed[name]:
            raise _refuse(folder, f"{name} has shape {values.shape}, not {listed[name]}")
    try:
        require_numbers(arrays)
    except ValueError as error:
        raise _refuse(folder, str(error)) from None
    return arrays


def require_numbers(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise `ValueError` for an array that holds anything but finite real numbers."""
    for name, values in arrays.items():
        if np.asarray(values).dtype.kind not in "fiub":
            raise ValueError(f"{name} holds no numbers")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds numbers that are not finite")


def require_sound_model(model: ForwardModel, known: Iterable[str], arrays: Iterable[str]) -> None:
    """Hold that a model makes spectra of its labels on its pixels, and nothing was left over.

    Parameters
    ----------
    model : ForwardModel
    known : iterable of str
        Arrays that the model would be saved with.
    arrays : iterable of str
        Arrays that it was made of.

    Raises
    ------
    ValueError
        If not; anything else that the model itself raises for parts that do not fit.
    """
    import jax

    strange = sorted(set(arrays) - set(known))
    if strange:
        raise ValueError(f"nothing uses the array {strange[0]!r}")
    scaled = jax.ShapeDtypeStruct((model.label_space.n_label,), np.float32)
    flux = jax.eval_shape(model.predict_scaled, scaled)
    if flux.shape != (model.grid.n_pix,) or flux.dtype != np.float32:
        raise ValueError(
            f"spectra are {flux.dtype}{list(flux.shape)}, not {model.grid.n_pix} pixels"
        )
    if not 0 < float(model.grid.wave_aa[0]) < float(model.grid.wave_aa[-1]) < _LONGEST_AA:
        raise ValueError("its pixels are at no wavelengths of light")
    for name in (*model.label_space.names, *model.label_space.units):
        if not isinstance(name, str):
            raise TypeError(f"{name!r} is no name of a label, nor a unit")
    error = np.asarray(getattr(model, "model_error", 0.0))
    if not (error >= 0).all():
        raise ValueError("its model_error is negative")
    _require_preprocessing(model.preprocessing)


def _require_preprocessing(done: Any) -> None:
    for name in ("sigma_aa", "resolving_power"):
        value = getattr(done, name)
        if value is not None and not 0 < float(value) < np.inf:
            raise ValueError(f"{name} is {value}")
    for low, high in done.masks_aa:
        if not 0 < low < high < np.inf:
            raise ValueError(f"a mask is from {low} to {high}")


def _refuse(folder: Path, reason: str) -> FormatError:
    return FormatError(f"the model {folder} is damaged: {reason}.", _AGAIN)
