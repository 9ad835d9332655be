"""Registries that users extend: what was registered is asked first and travels to worker processes.

A registry holds entries of one kind (readers of spectra, readers of model grids) in the order in
which they are asked:

1. what the program registered, the newest first;
2. what installed packages declare under an entry point, by name;
3. what the package brings, in its own order.

Worker processes are fresh interpreters (see `jaxmdwarf.io.stream`), which know nothing of what a
script registered. Entries are therefore sent along, by reference: the module that defines them
must be importable. Entries of ``__main__`` (a script, a notebook) are not, and the work then stays
in the calling process.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Generic, TypeVar

from jaxmdwarf.errors import UsageError

T = TypeVar("T")

_known: dict[str, Registry] = {}
_arrived = False
"""Whether this is a worker, to which all entries have been sent."""


class Registry(Generic[T]):
    """Entries of one kind.

    Parameters
    ----------
    home : str
        ``module:name`` of this object, by which workers find it.
    what : str
        What an entry is, for messages.
    group : str
        Entry point group of packages that bring entries; each names an entry or a callable that
        makes one.
    built_in : callable
        Gives the package's own entries, in their order.
    needs : sequence of str
        Attributes of an entry that are called.
    """

    def __init__(
        self,
        home: str,
        *,
        what: str,
        group: str,
        built_in: Callable[[], Sequence[T]],
        needs: Sequence[str],
    ) -> None:
        self.home, self.what, self.group, self.needs = home, what, group, tuple(needs)
        self._load_built_in = built_in
        self._built_in: tuple[T, ...] = ()
        self._own: list[T] = []
        self._installed: list[T] | None = None
        _known[home] = self

    def add(self, entry: T) -> None:
        """Register an entry before all others; one of the same name is replaced.

        Raises
        ------
        UsageError
            If it lacks a name or one of the methods.
        """
        self._check(entry)
        self._own = [entry, *(one for one in self._own if _name(one) != _name(entry))]

    def remove(self, name: str) -> None:
        """Forget a registered entry.

        Raises
        ------
        UsageError
            If nothing of this name was registered.
        """
        kept = [one for one in self._own if _name(one) != name]
        if len(kept) == len(self._own):
            names = ", ".join(map(_name, self._own)) or "none"
            raise UsageError(
                f"no {self.what} {name!r} was registered.", f"registered by this program: {names}."
            )
        self._own = kept

    def entries(self) -> tuple[T, ...]:
        """All entries in the order in which they are asked."""
        if not self._built_in:
            self._built_in = tuple(self._load_built_in())
        return (*self.extras(), *self._built_in)

    def extras(self) -> tuple[T, ...]:
        """What the package does not bring itself."""
        if self._installed is None:
            self._installed = [] if _arrived else self._load_installed()
        return (*self._own, *self._installed)

    def take(self, entries: Sequence[T]) -> None:
        """Have exactly these entries besides the built-in ones: what a worker is sent."""
        self._own, self._installed = list(entries), []

    def _load_installed(self) -> list[T]:
        from importlib.metadata import entry_points

        found: list[T] = []
        for point in sorted(entry_points(group=self.group), key=lambda point: point.name):
            try:
                loaded = point.load()
                # A class or a factory is called; an entry is taken as it is.
                entry = loaded if self._fits(loaded) else loaded()
                self._check(entry)
            except Exception as error:  # a broken plug-in must not take the others with it
                warnings.warn(
                    f"the {self.what} {point.name!r} ({point.value}) cannot be loaded: {error}",
                    stacklevel=3,
                )
            else:
                found.append(entry)
        return found

    def _fits(self, entry: Any) -> bool:
        return not isinstance(entry, type) and all(
            callable(getattr(entry, method, None)) for method in self.needs
        )

    def _check(self, entry: Any) -> None:
        name = getattr(entry, "name", None)
        if not (isinstance(name, str) and name and self._fits(entry)):
            raise UsageError(
                f"{entry!r} is no {self.what}.",
                f"give an object with a name (text) and the methods {' and '.join(self.needs)}.",
            )


def pack_extras() -> bytes | None:
    """All that users added to registries, for a worker; None where it cannot be sent."""
    extras = {home: registry.extras() for home, registry in _known.items()}
    try:
        packed = pickle.dumps({home: entries for home, entries in extras.items() if entries})
    except (pickle.PicklingError, AttributeError, TypeError):
        return None
    # Pickled by reference; what stands in the script itself is not to be found elsewhere.
    return None if b"__main__" in packed else packed


def unpack_extras(packed: bytes) -> None:
    """In a worker: register what the parent process had registered."""
    global _arrived
    _arrived = True
    for home, entries in pickle.loads(packed).items():
        module, _, name = home.partition(":")
        getattr(import_module(module), name).take(entries)


def _name(entry: Any) -> str:
    return entry.name
