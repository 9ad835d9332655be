"""Model directories: ``model.json`` says what the model is, ``arrays.npz`` holds its numbers.

Nothing is pickled, so a model can be read without trusting whoever wrote it; every byte is under a
hash, so a damaged model is refused and does not fit stars wrongly.
"""

import hashlib
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from jaxmdwarf.errors import FormatError, MismatchError, UsageError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.models.cyclestar import CycleStarModel
from jaxmdwarf.models.distilled import Distillate
from jaxmdwarf.models.payne import PayneEmulator
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.models.priors import LabelPrior, Prior, RelationPrior
from jaxmdwarf.networks.cyclestar import ConvLayers, CycleStarSizes
from jaxmdwarf.networks.payne import PayneNetwork
from jaxmdwarf.wavelengths import PixelGrid

MODEL_FORMAT = "jaxmdwarf-model"
MODEL_VERSION = 1
_JSON_NAME = "model.json"
_ARRAYS_NAME = "arrays.npz"


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
        A `PayneEmulator`, or a `CycleStarModel` whose base model is one of these.
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
        If `path` exists and is not a model, or cannot be written.
    """
    about, arrays = _pack(model)
    description = {
        **about,
        "training": training or {},
        "provenance": provenance or {},
    }
    return write_model_directory(path, description, arrays, extras=extras)


def load_model(path: str | os.PathLike[str]) -> ForwardModel:
    """Read the model of a model directory, exactly as it was saved.

    Raises
    ------
    UsageError
        If there is no such directory.
    FormatError
        If it is not a model, of another format version, of an unknown kind, or damaged.
    """
    about, arrays = read_model_directory(path)
    try:
        return _unpack(about, arrays)
    except MismatchError as error:
        raise FormatError(
            f"the parts of the model {os.fspath(path)} do not belong together: {error.message}",
            "copy the model again from where it came, or train it again.",
        ) from None


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
        **_plain(about),
        "arrays": {
            "file": _ARRAYS_NAME,
            "sha256": hashlib.sha256(packed).hexdigest(),
            "shapes": {name: list(np.shape(values)) for name, values in arrays.items()},
        },
    }
    description["sha256"] = _hash_description(description)
    with _directory_written_atomically(target) as folder:
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
    try:
        packed = (folder / _ARRAYS_NAME).read_bytes()
    except OSError:
        raise damaged from None
    if hashlib.sha256(packed).hexdigest() != about["arrays"]["sha256"]:
        raise damaged
    with np.load(io.BytesIO(packed), allow_pickle=False) as stored:
        return about, {name: stored[name] for name in stored.files}


def _read_description(folder: Path) -> dict[str, Any]:
    file = folder / _JSON_NAME
    if not folder.is_dir():
        raise UsageError(
            f"there is no model directory {folder}.", "train one with 'jaxmdwarf train-emulator'."
        )
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        about = None
    if not isinstance(about, dict) or about.get("format") != MODEL_FORMAT:
        raise FormatError(
            f"{folder} holds no {_JSON_NAME} of a jaxmdwarf model.",
            "give the directory that 'jaxmdwarf train-emulator' wrote.",
        )
    if about.get("format_version") != MODEL_VERSION:
        raise FormatError(
            f"the model {folder} has format version {about.get('format_version')!r}; this version "
            f"of jaxmdwarf reads version {MODEL_VERSION}.",
            "train it again, or use the version of jaxmdwarf that wrote it.",
        )
    if about.get("sha256") != _hash_description(about):
        raise FormatError(
            f"{file} was changed after it was written.",
            "copy the model again from where it came, or train it again.",
        )
    return about


def _hash_description(description: Mapping[str, Any]) -> str:
    content = {key: value for key, value in description.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """JSON values of numpy's ones; numbers that JSON has no word for become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _pack_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    for name, values in arrays.items():
        if np.asarray(values).dtype.hasobject:
            raise UsageError(f"array {name!r} holds objects: a model is numbers only.")
    np.savez(buffer, **{name: np.asarray(values) for name, values in arrays.items()})  # type: ignore[arg-type]
    return buffer.getvalue()


@contextmanager
def _directory_written_atomically(target: Path):
    """Yield a new folder beside `target`, which takes its place if the block succeeds."""
    if target.exists() and not (target / _JSON_NAME).is_file():
        raise UsageError(
            f"{target} exists and is not a model; it was left alone.", "give another output path."
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise UsageError(
            f"cannot write {target}: {error.strerror}.", "give an output path you may write to."
        ) from None
    try:
        yield folder
        umask = os.umask(0)
        os.umask(umask)
        folder.chmod(0o777 & ~umask)
        # A directory cannot be renamed over another that is not empty: the old one steps aside.
        old = folder.with_name(folder.name + ".old")
        if target.exists():
            target.rename(old)
        folder.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _describe_space(space: LabelSpace) -> list[dict[str, Any]]:
    return [
        {"name": name, "unit": unit, "lower": lower, "upper": upper}
        for name, unit, lower, upper in zip(
            space.names, space.units, space.lower, space.upper, strict=True
        )
    ]


def _read_space(rows: list[dict[str, Any]]) -> LabelSpace:
    return LabelSpace(
        names=tuple(row["name"] for row in rows),
        units=tuple(row["unit"] for row in rows),
        lower=tuple(float(row["lower"]) for row in rows),
        upper=tuple(float(row["upper"]) for row in rows),
    )


def _pack(model: ForwardModel) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What the model is, its kind first, and its arrays."""
    kinds = [kind for kind, (known, _, _) in _KINDS.items() if isinstance(model, known)]
    if not kinds:
        raise UsageError(f"models of type {type(model).__name__} cannot be saved.")
    about, arrays = _KINDS[kinds[0]][1](model)
    return {"kind": kinds[0], **about}, arrays


def _unpack(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> ForwardModel:
    if about.get("kind") not in _KINDS:
        raise FormatError(
            f"this is a model of kind {about.get('kind')!r}; this version of jaxmdwarf knows "
            f"{', '.join(_KINDS)}.",
            "use the version of jaxmdwarf that wrote it.",
        )
    return _KINDS[about["kind"]][2](about, arrays)


def _flatten_names(tree: Mapping[str, Any], prefix: str) -> dict[str, np.ndarray]:
    """Arrays of nested dictionaries under names joined by dots."""
    flat: dict[str, np.ndarray] = {}
    for name, inner in tree.items():
        if isinstance(inner, Mapping):
            flat |= _flatten_names(inner, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = np.asarray(inner)
    return flat


def _nest_names(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """The nested dictionaries of `_flatten_names`, with arrays on the device."""
    import jax.numpy as jnp

    nested: dict[str, Any] = {}
    for key, values in arrays.items():
        if key.startswith(prefix):
            *path, name = key.removeprefix(prefix).split(".")
            folder = nested
            for part in path:
                folder = folder.setdefault(part, {})
            folder[name] = jnp.asarray(values)
    return nested


_BASE = "base."
_DISTILLATE = "distillate."
_DISTILLATE_ARRAYS = ("basis", "mean", "split_mean", "projection")
_PARAMS = "params."


def _pack_cyclestar(model: CycleStarModel) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    base_about, base_arrays = _pack(model.base)
    arrays = _flatten_names(model.params, _PARAMS)
    arrays["mean_split"] = np.asarray(model.mean_split)
    arrays |= {f"{_BASE}{name}": values for name, values in base_arrays.items()}
    about = {
        **{name: base_about[name] for name in _SHARED_WITH_BASE if name in base_about},
        "residual": model.residual,
        "sizes": asdict(model.sizes),
        "base": base_about,
    }
    head = model.distillate
    if head is not None:
        about["distillate"] = {"network": asdict(head.network)}
        arrays |= _flatten_names(head.params, f"{_DISTILLATE}{_PARAMS}")
        arrays |= {
            f"{_DISTILLATE}{name}": np.asarray(getattr(head, name)) for name in _DISTILLATE_ARRAYS
        }
    return about, arrays


def _pack_corrected(model: CorrectedModel) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    base_about, base_arrays = _pack(model.base)
    arrays = {name: np.asarray(getattr(model, name)) for name in _CORRECTED_ARRAYS}
    arrays |= {f"{_BASE}{name}": values for name, values in base_arrays.items()}
    about = {
        **{name: base_about[name] for name in _SHARED_WITH_BASE if name in base_about},
        "features": asdict(model.features),
        "priors": [{"kind": type(prior).__name__, **asdict(prior)} for prior in model.label_priors],
        "noise_scale": float(model.noise_scale),
        "base": base_about,
    }
    return about, arrays


def _unpack_corrected(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> CorrectedModel:
    import jax.numpy as jnp

    base_arrays = {
        name.removeprefix(_BASE): values
        for name, values in arrays.items()
        if name.startswith(_BASE)
    }
    features = {name: _as_tuple(value) for name, value in about["features"].items()}
    return CorrectedModel(  # type: ignore[call-arg]
        base=_unpack(about["base"], base_arrays),
        correction=jnp.asarray(arrays["correction"]),
        nuisance=jnp.asarray(arrays["nuisance"]),
        model_error=jnp.asarray(arrays["model_error"]),
        features=LabelFeatures(**features),
        label_priors=tuple(_read_prior(prior) for prior in about["priors"]),
        noise_scale=jnp.asarray(about["noise_scale"], jnp.float32),
    )


_CORRECTED_ARRAYS = ("correction", "nuisance", "model_error")


def _read_prior(about: Mapping[str, Any]) -> Prior:
    kinds = {kind.__name__: kind for kind in (LabelPrior, RelationPrior)}
    fields = {name: _as_tuple(value) for name, value in about.items() if name != "kind"}
    return kinds[about["kind"]](**fields)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


# Readers of a description find these at the top, whatever the kind.
_SHARED_WITH_BASE = ("labels", "pixels", "trained_on_simulation", "spectra")


def _unpack_cyclestar(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> CycleStarModel:
    import jax.numpy as jnp

    base_arrays = {
        name.removeprefix(_BASE): values
        for name, values in arrays.items()
        if name.startswith(_BASE)
    }
    return CycleStarModel(  # type: ignore[call-arg]
        base=_unpack(about["base"], base_arrays),
        params=_nest_names(arrays, _PARAMS),
        mean_split=jnp.asarray(arrays["mean_split"]),
        sizes=_read_sizes(about["sizes"]),
        residual=bool(about["residual"]),
        distillate=_unpack_distillate(about.get("distillate"), arrays),
    )


def _unpack_distillate(about: Mapping[str, Any] | None, arrays) -> Distillate | None:
    import jax.numpy as jnp

    if about is None:
        return None
    return Distillate(  # type: ignore[call-arg]
        params=_nest_names(arrays, f"{_DISTILLATE}{_PARAMS}"),
        network=_read_network(about["network"]),
        **{name: jnp.asarray(arrays[f"{_DISTILLATE}{name}"]) for name in _DISTILLATE_ARRAYS},
    )


def _read_network(about: Mapping[str, Any]) -> PayneNetwork:
    return PayneNetwork(
        hidden=tuple(about["hidden"]), n_out=about["n_out"], activation=about["activation"]
    )


def _read_sizes(about: Mapping[str, Any]) -> CycleStarSizes:
    def read(value: Any) -> Any:
        if isinstance(value, Mapping):
            return ConvLayers(**{name: tuple(inner) for name, inner in value.items()})
        return tuple(value) if isinstance(value, list) else value

    return CycleStarSizes(**{name: read(value) for name, value in about.items()})


def _pack_payne(model: PayneEmulator) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    arrays = {
        f"params.{layer}.{name}": np.asarray(values)
        for layer, weights in model.params.items()
        for name, values in weights.items()
    }
    for name in ("basis", "mean", "model_error"):
        arrays[name] = np.asarray(getattr(model, name))
    preprocessing = asdict(model.preprocessing)
    about = {
        "labels": _describe_space(model.label_space),
        "pixels": {"wavelengths": "vacuum Angstrom", **asdict(model.grid)},
        "trained_on_simulation": preprocessing.pop("simulated"),
        "spectra": preprocessing,
        "network": asdict(model.network),
    }
    return about, arrays


def _unpack_payne(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> PayneEmulator:
    import jax.numpy as jnp

    params: dict[str, dict[str, Any]] = {}
    for key, values in arrays.items():
        if key.startswith("params."):
            _, layer, name = key.split(".")
            params.setdefault(layer, {})[name] = jnp.asarray(values)
    pixels, spectra = about["pixels"], about["spectra"]
    return PayneEmulator(
        params=params,
        basis=jnp.asarray(arrays["basis"]),
        mean=jnp.asarray(arrays["mean"]),
        model_error=jnp.asarray(arrays["model_error"]),
        network=_read_network(about["network"]),
        label_space=_read_space(about["labels"]),
        grid=PixelGrid(**{key: value for key, value in pixels.items() if key != "wavelengths"}),
        preprocessing=Preprocessing(
            sigma_aa=spectra["sigma_aa"],
            masks_aa=tuple((float(low), float(high)) for low, high in spectra["masks_aa"]),
            resolving_power=spectra["resolving_power"],
            simulated=bool(about["trained_on_simulation"]),
        ),
    )


_Packer = Callable[[Any], tuple[dict[str, Any], dict[str, np.ndarray]]]
_Unpacker = Callable[[dict[str, Any], dict[str, np.ndarray]], ForwardModel]
_KINDS: dict[str, tuple[type[ForwardModel], _Packer, _Unpacker]] = {
    "payne-emulator": (PayneEmulator, _pack_payne, _unpack_payne),
    "cyclestar": (CycleStarModel, _pack_cyclestar, _unpack_cyclestar),
    "corrected": (CorrectedModel, _pack_corrected, _unpack_corrected),
}
