"""Training checkpoints: arrays by orbax, and a text that says what they belong to."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
from jaxtyping import PyTree

from jaxmdwarf.errors import FormatError

T = TypeVar("T")
_ABOUT_NAME = "about.json"


class Checkpoints:
    """The checkpoints of one training, in a folder of its own.

    Each is written under a temporary name and renamed by orbax; older ones go once a newer one is
    complete. Whatever moment training is killed at, the last complete state is there.

    Parameters
    ----------
    folder : path
    about : mapping
        What the training is (configuration, hash of its data), plain JSON values. A state is only
        restored for an equal `about`.

    Examples
    --------
    >>> import tempfile, jax.numpy as jnp
    >>> store = Checkpoints(tempfile.mkdtemp(), {"seed": 0})
    >>> store.save(10, {"w": jnp.arange(3.0)})
    >>> store.restore(like={"w": jnp.zeros(3)})["w"].tolist()
    [0.0, 1.0, 2.0]
    """

    def __init__(self, folder: str | os.PathLike[str], about: Mapping[str, Any]) -> None:
        self.folder = Path(folder).absolute()
        self._about = json.loads(json.dumps(about))

    def save(self, step: int, state: PyTree) -> None:
        """Store `state`, and drop what was stored before."""
        import orbax.checkpoint as ocp

        self._own_folder()
        target = self.folder / f"step_{step:08d}"
        older = [path for path in self._complete() if path != target]
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(target, _as_dict(state), force=True)
        for path in older:
            shutil.rmtree(path, ignore_errors=True)

    def restore(self, *, like: T) -> T | None:
        """The newest state, or None if there is none of this training.

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
        if not found or self._read_about() != self._about:
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

    def _own_folder(self) -> None:
        if self._read_about() == self._about:
            return
        # States of another training would be taken for this one's.
        for path in self._complete():
            shutil.rmtree(path, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{_ABOUT_NAME}"
        temporary.write_text(json.dumps(self._about, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self.folder / _ABOUT_NAME)

    def _read_about(self) -> Any:
        try:
            return json.loads((self.folder / _ABOUT_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _complete(self) -> list[Path]:
        # Orbax's temporary names carry a suffix; a finished state is digits alone.
        paths = self.folder.glob("step_*") if self.folder.is_dir() else []
        return sorted(path for path in paths if path.name.removeprefix("step_").isdigit())


def _as_dict(state: PyTree) -> dict[str, Any]:
    """Leaves under names that sort in their order: any pytree, none of its classes."""
    return {f"leaf_{index:05d}": leaf for index, leaf in enumerate(jax.tree.leaves(state))}
