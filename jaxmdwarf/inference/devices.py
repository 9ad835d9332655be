"""Stars spread over the devices of a host, each of which iterates on its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_AXIS = "stars"


def count_callers() -> int:
    """Threads that call programs of few stars beside each other: one a core, on a CPU alone."""
    if jax.default_backend() != "cpu" or star_mesh() is not None:
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def star_mesh() -> Mesh | None:
    """A mesh of all local devices; None where there is one device, or an old JAX."""
    devices = jax.local_devices()
    if len(devices) == 1 or not hasattr(jax, "shard_map"):
        return None
    return Mesh(np.array(devices), (_AXIS,))


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """The same arrays on every device of the mesh; unchanged without one."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def divide_stars(
    function: Callable[[Any, Any], Any], mesh: Mesh | None
) -> Callable[[Any, Any], Any]:
    """``function(shared, stars)`` with the leading axis of `stars` divided among the devices.

    Loops inside end on each device when its own stars are done: no device waits for another.
    """
    if mesh is None:
        return function
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(_AXIS)),
        out_specs=PartitionSpec(_AXIS),
        check_vma=False,
    )
