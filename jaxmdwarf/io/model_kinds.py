"""Kinds of models that a directory can hold: how each becomes JSON and arrays, and comes back.

A kind of a user's own is registered, and saved and loaded like ours:

>>> def pack(model):
...     return describe_common(model), {"corners": np.asarray(model.corners)}
>>> def unpack(about, arrays):
...     common = read_common(about)
...     return MyModel(arrays["corners"], common.space, common.grid)
>>> register_model_kind("mine", MyModel, pack, unpack)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from jaxmdwarf.errors import FormatError, UsageError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.models.cyclestar import CycleStarModel
from jaxmdwarf.models.distilled import Distillate
from jaxmdwarf.models.payne import PayneEmulator
from jaxmdwarf.models.population import TrainingPopulation
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.models.priors import LabelPrior, Prior, RelationPrior
from jaxmdwarf.networks.convolution import ConvLayers
from jaxmdwarf.networks.cyclestar import CycleStarSizes
from jaxmdwarf.networks.payne import PayneNetwork, list_shapes
from jaxmdwarf.wavelengths import PixelGrid

Packed: TypeAlias = tuple[dict[str, Any], dict[str, np.ndarray]]
"""Plain JSON values, and arrays by name."""


class ModelKind(NamedTuple):
    """How models of one class are kept.

    Parameters
    ----------
    model : type
    pack : callable
        A model to plain JSON values and numeric arrays.
    unpack : callable
        These back to the model, exactly.
    """

    model: type[ForwardModel]
    pack: Callable[[Any], Packed]
    unpack: Callable[[dict[str, Any], dict[str, np.ndarray]], ForwardModel]


_KINDS: dict[str, ModelKind] = {}


def register_model_kind(
    name: str,
    model: type[ForwardModel],
    pack: Callable[[Any], Packed],
    unpack: Callable[[dict[str, Any], dict[str, np.ndarray]], ForwardModel],
) -> None:
    """Let models of a class be saved and loaded as a kind of this name.

    Parameters
    ----------
    name : str
        Written into ``model.json``: whoever loads the model registers the same name first.
    model : type
        Subclasses without a kind of their own are kept as it is.
    pack, unpack : callable
        See `ModelKind`; `describe_common` and `read_common` do what all models share.

    Raises
    ------
    UsageError
        If the name is that of another class.
    """
    known = _KINDS.get(name)
    if known is not None and known.model is not model:
        raise UsageError(
            f"models of kind {name!r} are {known.model.__name__}.", "give another name."
        )
    _KINDS[name] = ModelKind(model, pack, unpack)


def list_model_kinds() -> tuple[str, ...]:
    """Names of the kinds that can be loaded."""
    return tuple(_KINDS)


def pack_model(model: ForwardModel) -> Packed:
    """What a model is, its ``kind`` among it, and its arrays.

    Raises
    ------
    UsageError
        If no kind is registered for its class.
    """
    for ancestor in type(model).__mro__:
        for name, kind in _KINDS.items():
            if kind.model is ancestor:
                about, arrays = kind.pack(model)
                return {"kind": name, **about}, arrays
    raise UsageError(
        f"models of type {type(model).__name__} cannot be saved.",
        "tell jaxmdwarf.io.model_kinds.register_model_kind how.",
    )


def unpack_model(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> ForwardModel:
    """The model that `pack_model` was given.

    Raises
    ------
    FormatError
        If its kind is not registered.
    """
    kind = _KINDS.get(str(about.get("kind")))
    if kind is None:
        raise FormatError(
            f"this is a model of kind {about.get('kind')!r}; known are {', '.join(_KINDS)}.",
            "import what registers this kind, or use the version of jaxmdwarf that wrote it.",
        )
    return kind.unpack(about, arrays)


class CommonFields(NamedTuple):
    """What all models have."""

    space: LabelSpace
    grid: PixelGrid
    preprocessing: Preprocessing


def describe_common(model: ForwardModel) -> dict[str, Any]:
    """Labels, pixels and preprocessing of a model, as readers of any description find them."""
    preprocessing = asdict(model.preprocessing)
    return {
        "labels": _describe_space(model.label_space),
        "pixels": {"wavelengths": "vacuum Angstrom", **asdict(model.grid)},
        "trained_on_simulation": preprocessing.pop("simulated"),
        "spectra": preprocessing,
    }


def read_common(about: Mapping[str, Any]) -> CommonFields:
    """What `describe_common` told."""
    spectra = about["spectra"]
    pixels = {key: value for key, value in about["pixels"].items() if key != "wavelengths"}
    return CommonFields(
        _read_space(about["labels"]),
        PixelGrid(**pixels),
        Preprocessing(
            sigma_aa=spectra["sigma_aa"],
            masks_aa=tuple((float(low), float(high)) for low, high in spectra["masks_aa"]),
            resolving_power=spectra["resolving_power"],
            simulated=_read_bool(about["trained_on_simulation"]),
        ),
    )


def _read_bool(value: Any) -> bool:
    """A truth value; what others take for one would decide what every product says of itself."""
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _read_positive(value: Any) -> float:
    """A number above 0; NaN, which JSON has no word for, would come back as nothing."""
    if not 0 < float(value) < np.inf:
        raise ValueError(f"{value!r} is no positive number")
    return float(value)


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


def _flatten_names(tree: Mapping[str, Any], prefix: str) -> dict[str, np.ndarray]:
    """Arrays of nested dictionaries under names joined by dots."""
    flat: dict[str, np.ndarray] = {}
    for name, inner in tree.items():
        if isinstance(inner, Mapping):
            flat |= _flatten_names(inner, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = np.asarray(inner)
    return flat


def _on_device(values: np.ndarray) -> Any:
    """An array of JAX; `jnp.asarray` would compile a copy for every shape."""
    import jax

    return jax.device_put(values)


def _nest_names(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """The nested dictionaries of `_flatten_names`, with arrays on the device."""
    nested: dict[str, Any] = {}
    for key, values in arrays.items():
        if key.startswith(prefix):
            *path, name = key.removeprefix(prefix).split(".")
            folder = nested
            for part in path:
                folder = folder.setdefault(part, {})
            folder[name] = _on_device(values)
    return nested


_BASE = "base."
_DISTILLATE = "distillate."
_DISTILLATE_ARRAYS = ("basis", "mean", "split_mean", "projection")
_PARAMS = "params."
_POPULATION = "population."
_POPULATION_ARRAYS = ("directions", "chi2", "pattern", "reach", "labels", "width", "limits")


def _pack_population(population: TrainingPopulation | None) -> Packed:
    """What a description says of the training stars, and their arrays; nothing without them."""
    if population is None:
        return {}, {}
    arrays = {
        f"{_POPULATION}{name}": np.asarray(getattr(population, name)) for name in _POPULATION_ARRAYS
    }
    return {"population": {"leading": population.leading}}, arrays


def _unpack_population(
    about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> TrainingPopulation | None:
    described = about.get("population")
    if described is None:
        return None
    kept: dict[str, Any] = {name: arrays[f"{_POPULATION}{name}"] for name in _POPULATION_ARRAYS}
    return TrainingPopulation(  # type: ignore[call-arg]
        **kept,
        leading=int(described["leading"]),
    )


def _pack_cyclestar(model: CycleStarModel) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    base_about, base_arrays = pack_model(model.base)
    arrays = _flatten_names(model.params, _PARAMS)
    arrays["mean_split"] = np.asarray(model.mean_split)
    arrays |= {f"{_BASE}{name}": values for name, values in base_arrays.items()}
    population, population_arrays = _pack_population(model.population)
    arrays |= population_arrays
    about = {
        **{name: base_about[name] for name in _SHARED_WITH_BASE if name in base_about},
        **population,
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
    base_about, base_arrays = pack_model(model.base)
    arrays = {name: np.asarray(getattr(model, name)) for name in _CORRECTED_ARRAYS}
    for name in _CORRECTED_MAYBE:
        if getattr(model, name) is not None:
            arrays[name] = np.asarray(getattr(model, name))
    arrays |= {f"{_BASE}{name}": values for name, values in base_arrays.items()}
    population, population_arrays = _pack_population(model.population)
    arrays |= population_arrays
    about = {
        **{name: base_about[name] for name in _SHARED_WITH_BASE if name in base_about},
        **population,
        "features": asdict(model.features),
        "priors": [{"kind": type(prior).__name__, **asdict(prior)} for prior in model.label_priors],
        "noise_scale": float(model.noise_scale),
        "base": base_about,
    }
    return about, arrays


def _unpack_corrected(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> CorrectedModel:
    base_arrays = {
        name.removeprefix(_BASE): values
        for name, values in arrays.items()
        if name.startswith(_BASE)
    }
    features = {name: _as_tuple(value) for name, value in about["features"].items()}
    return CorrectedModel(  # type: ignore[call-arg]
        base=unpack_model(about["base"], base_arrays),
        correction=_on_device(arrays["correction"]),
        nuisance=_on_device(arrays["nuisance"]),
        model_error=_on_device(arrays["model_error"]),
        features=LabelFeatures(**features),
        label_priors=tuple(_read_prior(prior) for prior in about["priors"]),
        noise_scale=_on_device(np.asarray(_read_positive(about["noise_scale"]), np.float32)),
        population=_unpack_population(about, arrays),
        # Models of earlier versions do not know these.
        **{name: _on_device(arrays[name]) for name in _CORRECTED_MAYBE if name in arrays},
    )


_CORRECTED_ARRAYS = ("correction", "nuisance", "model_error")
_CORRECTED_MAYBE = ("uncertainty", "label_error", "velocity_error")


def _read_prior(about: Mapping[str, Any]) -> Prior:
    kinds = {kind.__name__: kind for kind in (LabelPrior, RelationPrior)}
    fields = {name: _as_tuple(value) for name, value in about.items() if name != "kind"}
    return kinds[about["kind"]](**fields)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


# Readers of a description find these at the top, whatever the kind.
_SHARED_WITH_BASE = ("labels", "pixels", "trained_on_simulation", "spectra")


def _unpack_cyclestar(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> CycleStarModel:
    base_arrays = {
        name.removeprefix(_BASE): values
        for name, values in arrays.items()
        if name.startswith(_BASE)
    }
    return CycleStarModel(  # type: ignore[call-arg]
        base=unpack_model(about["base"], base_arrays),
        params=_nest_names(arrays, _PARAMS),
        mean_split=_on_device(arrays["mean_split"]),
        sizes=_read_sizes(about["sizes"]),
        residual=bool(about["residual"]),
        distillate=_unpack_distillate(about.get("distillate"), arrays),
        population=_unpack_population(about, arrays),
    )


def _unpack_distillate(about: Mapping[str, Any] | None, arrays) -> Distillate | None:
    if about is None:
        return None
    return Distillate(  # type: ignore[call-arg]
        params=_nest_names(arrays, f"{_DISTILLATE}{_PARAMS}"),
        network=_read_network(about["network"]),
        **{name: _on_device(arrays[f"{_DISTILLATE}{name}"]) for name in _DISTILLATE_ARRAYS},
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


def _require_layers(params: Mapping[str, Any], network: PayneNetwork, n_label: int) -> None:
    """Hold that weights are those of a network: every layer, no other, each with its shape."""
    asked = list_shapes(network, n_label)
    found = {
        layer: {name: tuple(values.shape) for name, values in weights.items()}
        for layer, weights in params.items()
    }
    if found != asked:
        raise ValueError(f"the network has layers {found}, not {asked}")


def _pack_payne(model: PayneEmulator) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    arrays = {
        f"params.{layer}.{name}": np.asarray(values)
        for layer, weights in model.params.items()
        for name, values in weights.items()
    }
    for name in ("basis", "mean", "model_error"):
        arrays[name] = np.asarray(getattr(model, name))
    return {**describe_common(model), "network": asdict(model.network)}, arrays


def _unpack_payne(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> PayneEmulator:
    params: dict[str, dict[str, Any]] = {}
    for key, values in arrays.items():
        if key.startswith("params."):
            _, layer, name = key.split(".")
            params.setdefault(layer, {})[name] = _on_device(values)
    common = read_common(about)
    network = _read_network(about["network"])
    _require_layers(params, network, common.space.n_label)
    return PayneEmulator(
        params=params,
        basis=_on_device(arrays["basis"]),
        mean=_on_device(arrays["mean"]),
        model_error=_on_device(arrays["model_error"]),
        network=network,
        label_space=common.space,
        grid=common.grid,
        preprocessing=common.preprocessing,
    )


register_model_kind("payne-emulator", PayneEmulator, _pack_payne, _unpack_payne)
register_model_kind("cyclestar", CycleStarModel, _pack_cyclestar, _unpack_cyclestar)
register_model_kind("corrected", CorrectedModel, _pack_corrected, _unpack_corrected)
