"""Model directories: ``model.json`` says what the model is, ``arrays.npz`` holds its numbers.

Nothing is pickled, so a model can be read without trusting whoever wrote it; every byte is under a
hash, so a damaged model is refused and does not fit stars wrongly.
"""

import hashlib
import io
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxmdwarf.errors import DefaultModelWarning, FormatError, JaxmdwarfError, UsageError
from jaxmdwarf.io.atomic import write_folder_atomically
from jaxmdwarf.io.json_files import plain_json, to_json
from jaxmdwarf.io.model_checks import (
    MAX_JSON_BYTES,
    read_regular,
    require_numbers,
    require_sound_model,
    unpack_arrays,
)
from jaxmdwarf.io.model_kinds import pack_model, unpack_model
from jaxmdwarf.models.base import ForwardModel

MODEL_FORMAT = "jaxmdwarf-model"
MODEL_VERSION = 1
DEFAULT_MODEL = Path(__file__).parent / "default_model"
"""The model that comes with the package; ``python -m experiments real_default`` makes it."""

_JSON_NAME = "model.json"
_ARRAYS_NAME = "arrays.npz"

_UNFIT = (
    JaxmdwarfError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError
)  # fmt: skip
"""What parts raise that are missing, or of another kind, shape or range."""


def save_model(
    model: ForwardModel,
    path: str | os.PathLike[str],
    *,
    training: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    extras: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a model directory, which appears complete or not at all.

    Parameters
    ----------
    model : ForwardModel
        Of a kind that `jaxmdwarf.io.model_kinds` knows.
    path : path
        The directory; a model that is already there is replaced, anything else is left alone.
    training : mapping, optional
        How the model was trained and how good it is; plain JSON values.
    provenance : mapping, optional
        Versions, command, source of the grid; plain JSON values.
    extras : mapping of file name to bytes, optional
        Further files of the directory, such as metrics and figures. Loading does not read them.

    Raises
    ------
    UsageError
        If `path` exists and is not a model, or cannot be written, or `load_model` would refuse what
        is there then: weights that are not finite, a negative model error, labels of one name.
        Nothing is written.
    """
    about, arrays = pack_model(model)
    _require_loadable(about, arrays)
    description = {
        **about,
        "training": training or {},
        "provenance": provenance or {},
    }
    return write_model_directory(path, description, arrays, extras=extras)


def load_model(path: str | os.PathLike[str] | None = None) -> ForwardModel:
    """Read the model of a model directory, exactly as it was saved.

    Parameters
    ----------
    path : path, optional
        Without it the model that comes with the package is loaded, and a `DefaultModelWarning` says
        what it is, which scales its labels are on and how well it did.

    Raises
    ------
    UsageError
        If there is no such directory.
    FormatError
        If it is not a model, of another format version, of an unknown kind, or damaged.
    """
    if path is None:
        warnings.warn(read_default_notice(), DefaultModelWarning, stacklevel=2)
        path = DEFAULT_MODEL
    about, arrays = read_model_directory(path)
    try:
        return _assemble_model(about, arrays)
    except FormatError:
        raise
    except _UNFIT as error:
        raise FormatError(
            f"the parts of the model {os.fspath(path)} do not belong together: {_tell(error)}.",
            "copy the model again from where it came, or train it again.",
        ) from error


def read_default_notice() -> str:
    """One line on the model that comes with the package: what it is, its scales, its errors."""
    return str(describe_model(DEFAULT_MODEL)["training"]["notice"])


def describe_model(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What ``model.json`` says, checked like in `load_model` but without reading the arrays."""
    return _read_description(Path(path))


def write_model_directory(
    path: str | os.PathLike[str],
    about: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    extras: Mapping[str, bytes] | None = None,
) -> Path:
    """Write the two files of any kind of model; `about` and `arrays` are what loading gives back.

    Parameters
    ----------
    path : path
    about : mapping
        Plain JSON values, ``kind`` among them; format, version and hashes are added.
    arrays : mapping of str to array
        Numbers only.
    extras : mapping of str to bytes, optional
        See `save_model`.
    """
    target = Path(path)
    packed = _pack_arrays(arrays)
    description: dict[str, Any] = {
        "format": MODEL_FORMAT,
        "format_version": MODEL_VERSION,
        **plain_json(about),
        "arrays": {
            "file": _ARRAYS_NAME,
            "sha256": hashlib.sha256(packed).hexdigest(),
            "shapes": {name: list(np.shape(values)) for name, values in arrays.items()},
        },
    }
    description["sha256"] = _hash_description(description)
    in_the_way = target.exists() and not (target.is_dir() and not any(target.iterdir()))
    if in_the_way and not (target / _JSON_NAME).is_file():
        raise UsageError(
            f"{target} exists and is not a model; it was left alone.", "give another output path."
        )
    with write_folder_atomically(target) as folder:
        (folder / _ARRAYS_NAME).write_bytes(packed)
        for name, contents in (extras or {}).items():
            (folder / name).write_bytes(contents)
        text = json.dumps(description, indent=2, allow_nan=False)
        (folder / _JSON_NAME).write_text(text + "\n", encoding="utf-8")
    return target


def read_model_directory(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `write_model_directory` was given, format, version and hashes checked."""
    folder = Path(path)
    about = _read_description(folder)
    damaged = FormatError(
        f"the arrays of the model {folder} are missing or damaged.",
        "copy the model again from where it came, or train it again.",
    )
    listed = about.get("arrays")
    if not isinstance(listed, dict) or not isinstance(listed.get("shapes"), dict):
        raise damaged
    try:
        packed = read_regular(folder / _ARRAYS_NAME)
    except OSError:
        raise damaged from None
    if hashlib.sha256(packed).hexdigest() != listed.get("sha256"):
        raise damaged
    return about, unpack_arrays(packed, listed["shapes"], folder)


def _assemble_model(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> ForwardModel:
    model = unpack_model(about, arrays)
    require_sound_model(model, pack_model(model)[1], arrays)
    return model


def _require_loadable(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Raise `UsageError` unless a model comes back from what is to be written."""
    plain = json.loads(to_json(about))
    try:
        require_numbers(arrays)
        _assemble_model(plain, dict(arrays))
    except _UNFIT as error:
        raise UsageError(
            f"this model cannot be saved, for it could not be loaded: {_tell(error)}.",
            "train it again; where training diverges, with a lower learning rate.",
        ) from error


def _tell(error: Exception) -> str:
    text = error.message if isinstance(error, JaxmdwarfError) else str(error).strip()
    return f"{type(error).__name__}: {(text or '?').splitlines()[0].rstrip('.')}"


def _read_description(folder: Path) -> dict[str, Any]:
    file = folder / _JSON_NAME
    if not folder.is_dir():
        raise UsageError(
            f"there is no model directory {folder}.", "train one with 'jaxmdwarf train-emulator'."
        )
    try:
        about = json.loads(read_regular(file, most=MAX_JSON_BYTES), parse_constant=_refuse_constant)
        # Numbers beyond all bounds have no hash.
        own_hash = _hash_description(about) if isinstance(about, dict) else None
    except (OSError, ValueError, RecursionError):
        about = own_hash = None
    if not isinstance(about, dict) or about.get("format") != MODEL_FORMAT:
        raise FormatError(
            f"{folder} holds no {_JSON_NAME} of a jaxmdwarf model.",
            "give the directory that 'jaxmdwarf train-emulator' wrote.",
        )
    if type(about.get("format_version")) is not int or about["format_version"] != MODEL_VERSION:
        raise FormatError(
            f"the model {folder} has format version {about.get('format_version')!r}; this version "
            f"of jaxmdwarf reads version {MODEL_VERSION}.",
            "train it again, or use the version of jaxmdwarf that wrote it.",
        )
    if about.get("sha256") != own_hash:
        raise FormatError(
            f"{file} was changed after it was written.",
            "copy the model again from where it came, or train it again.",
        )
    return about


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _hash_description(description: Mapping[str, Any]) -> str:
    content = {key: value for key, value in description.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _pack_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    for name, values in arrays.items():
        if np.asarray(values).dtype.hasobject:
            raise UsageError(f"array {name!r} holds objects: a model is numbers only.")
    np.savez(buffer, **{name: np.asarray(values) for name, values in arrays.items()})  # type: ignore[arg-type]
    return buffer.getvalue()
