"""How much memory a batch of stars needs, and whether there is as much."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.config import FitConfig, choose_batch_size
from jaxmdwarf.inference.objective import linearise_flux
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

_SAFE_SHARE = 0.8


def estimate_fit_memory(model: ForwardModel, grid: PixelGrid, config: FitConfig) -> int:
    """Bytes that a fit needs on the device for one batch, from above.

    Parameters
    ----------
    model : ForwardModel
    grid : PixelGrid
        Of the spectra.
    config : FitConfig

    Returns
    -------
    int
        For the batch itself, the arrays of pixels that an iteration makes, the weights of the
        model, and what the model holds at once when its flux is linearised.
    """
    size = choose_batch_size(config.schedule, model)
    n_label = model.label_space.n_label
    n_par = n_label + int(config.fit_velocity)
    n_par += 0 if config.poly_order is None else config.poly_order + 1
    per_pixel = 10 + 2 * n_label + 3 * n_par
    nuisance = model.noise_model().nuisance
    if nuisance is not None and nuisance.shape[0]:
        # Residuals and slopes side by side, before and after directions are taken out.
        per_pixel += 3 * (n_par + 1)
    if model.surrogate() is not None:
        # Flux and slopes of the surrogate, and of how the model differs from it, old and new.
        per_pixel += 12 + 6 * n_par
    weights = sum(
        leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(model)
        if isinstance(leaf, jax.Array | np.ndarray)
    )
    return size * grid.n_pix * 4 * per_pixel + weights + _model_bytes(model, size)


def require_fit_memory(
    model: ForwardModel, grid: PixelGrid, config: FitConfig, *, available: int | None = None
) -> int:
    """Bytes that a batch needs, if the device has them.

    Parameters
    ----------
    model, grid, config
        As for `estimate_fit_memory`.
    available : int, optional
        Bytes that may be used; by default what the device, or the host of a CPU, has left.

    Returns
    -------
    int

    Raises
    ------
    UsageError
        If it has not, naming a batch size that fits.
    """
    needed = estimate_fit_memory(model, grid, config)
    available = find_memory() if available is None else available
    if available is None or needed <= _SAFE_SHARE * available:
        return needed
    size = choose_batch_size(config.schedule, model)
    few = [
        estimate_fit_memory(
            model, grid, replace(config, schedule=replace(config.schedule, batch_size=number))
        )
        for number in (1, 2)
    ]
    each, fixed = few[1] - few[0], 2 * few[0] - few[1]
    fitting = int((_SAFE_SHARE * available - fixed) // max(each, 1))
    fitting = min(fitting, size - 1)
    if fitting >= 32:
        fitting -= fitting % 32
    raise UsageError(
        f"batches of {size} stars need about {needed / 2**20:.0f} MiB; "
        f"{available / 2**20:.0f} MiB are free.",
        f"give --batch-size {fitting} or less (batch_size in Python)."
        if fitting >= 1
        else "not even one star fits: free memory, or use a smaller model.",
    )


def find_memory() -> int | None:
    """Bytes that are free on the device, or on the host if the device is a CPU; None if unknown."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        known = device.memory_stats() or {}
        if "bytes_limit" not in known:
            return None
        return int(known["bytes_limit"] - known.get("bytes_in_use", 0))
    limits = [_free_of_host(), _free_of_group()]
    return min((limit for limit in limits if limit is not None), default=None)


def _free_of_host() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError, AttributeError):
        return None


def _free_of_group() -> int | None:
    """What a container leaves (control groups, version 2)."""
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as most:
            limit = int(most.read())
        with open("/sys/fs/cgroup/memory.current", encoding="ascii") as now:
            used = int(now.read())
        with open("/sys/fs/cgroup/memory.stat", encoding="ascii") as stat:
            values = dict(line.split() for line in stat)
    except (OSError, ValueError):
        return None
    # Cached files count as used but give way.
    return limit - used + int(values.get("inactive_file", 0))


def _model_bytes(model: ForwardModel, size: int) -> int:
    """What flux and its derivatives by all labels hold at once, from the traced program."""
    n_label = model.label_space.n_label
    pixels = jax.ShapeDtypeStruct((size, model.grid.n_pix), jnp.float32)
    labels = jax.ShapeDtypeStruct((size, n_label), jnp.float32)
    arrays, rest = eqx.partition(model, eqx.is_array)

    def linearised(arrays, scaled, context):
        return linearise_flux(eqx.combine(arrays, rest), scaled, context)

    def read(pixels):
        return model.read_context(SpectrumBatch(pixels, pixels, pixels, model.grid))

    context = eqx.filter_eval_shape(read, pixels)

    def predicted(arrays, scaled, context):
        return eqx.combine(arrays, rest).predict_scaled_batch(scaled, context)

    programs = [jax.make_jaxpr(work)(arrays, labels, context) for work in (linearised, predicted)]
    # Compilers copy what matrix products want in another order.
    return 2 * max(_peak_bytes(program.jaxpr) for program in programs)


def _peak_bytes(program) -> int:
    """Most that the results of a program's operations take at any one time."""
    last_use = {}
    for number, step in enumerate(program.eqns):
        for value in step.invars:
            if hasattr(value, "count"):
                last_use[value] = number
    for value in program.outvars:
        if hasattr(value, "count"):
            last_use[value] = len(program.eqns)
    held, peak, live = 0, 0, {}
    for number, step in enumerate(program.eqns):
        inner = [_peak_bytes(part) for part in _parts_of(step)]
        for value in step.outvars:
            live[value] = _bytes_of(value)
            held += live[value]
        peak = max(peak, held + max(inner, default=0))
        for value in [value for value in live if last_use.get(value, -1) <= number]:
            held -= live.pop(value)
    return peak


def _parts_of(step):
    for value in step.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part


def _bytes_of(value) -> int:
    shape, dtype = value.aval.shape, value.aval.dtype
    return math.prod(shape) * getattr(dtype, "itemsize", 8)
