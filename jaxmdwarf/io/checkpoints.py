"""Training checkpoints: states as arrays, by orbax."""

import os
import shutil
from pathlib import Path
from typing import Any, TypeVar

import jax
from jaxtyping import PyTree

from jaxmdwarf.errors import FormatError

T = TypeVar("T")


class Checkpoints:
    """The checkpoints of one training, in a folder of its own.

    Each is written under a temporary name and renamed by orbax; older ones go once a newer one is
    complete. Whatever moment training is killed at, the last complete state is there. Whether it
    belongs to this training is for the run to know that the folder is part of.

    Parameters
    ----------
    folder : path

    Examples
    --------
    >>> import tempfile, jax.numpy as jnp
    >>> store = Checkpoints(tempfile.mkdtemp())
    >>> store.save(10, {"w": jnp.arange(3.0)})
    >>> store.restore(like={"w": jnp.zeros(3)})["w"].tolist()
    [0.0, 1.0, 2.0]
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).absolute()

    def save(self, step: int, state: PyTree) -> None:
        """Store `state`, and drop what was stored before."""
        import orbax.checkpoint as ocp

        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"step_{step:08d}"
        older = [path for path in self._complete() if path != target]
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(target, _as_dict(state), force=True)
        for path in older:
            shutil.rmtree(path, ignore_errors=True)

    def restore(self, *, like: T) -> T | None:
        """The newest state, or None if there is none.

        Parameters
        ----------
        like : pytree
            A state of the same structure, shapes and dtypes.

        Raises
        ------
        FormatError
            If the newest state cannot be read.
        """
        import orbax.checkpoint as ocp

        found = self._complete()
        if not found:
            return None
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                stored = checkpointer.restore(found[-1], _as_dict(like))
        except Exception as error:
            # Orbax raises errors of many libraries; all of them mean that the state is unusable.
            raise FormatError(
                f"the checkpoint {found[-1]} cannot be read: {type(error).__name__}.",
                "remove it and start the training anew.",
            ) from error
        leaves = [stored[name] for name in _as_dict(like)]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def clear(self) -> None:
        """Remove the folder and all states in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _complete(self) -> list[Path]:
        # Orbax's temporary names carry a suffix; a finished state is digits alone.
        paths = self.folder.glob("step_*") if self.folder.is_dir() else []
        return sorted(path for path in paths if path.name.removeprefix("step_").isdigit())


def _as_dict(state: PyTree) -> dict[str, Any]:
    """Leaves under names that sort in their order: any pytree, none of its classes."""
    return {f"leaf_{index:05d}": leaf for index, leaf in enumerate(jax.tree.leaves(state))}
