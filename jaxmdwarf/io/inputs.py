"""Files, folders, patterns, lists and packs of a user as inputs; what names nothing is a reject."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from jaxmdwarf.catalogue.texts import restore_path
from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.packs.store import is_pack, is_url, list_parts
from jaxmdwarf.io.rejects import Reject


@dataclass(frozen=True)
class Inputs:
    """What the user's arguments stand for.

    Parameters
    ----------
    paths : tuple of str
        Every file once, each argument's files sorted; the parts of packs
        (`jaxmdwarf.io.parts.PackPart`) in their order.
    rejects : tuple of Reject
        Arguments that name nothing, and files named twice.
    """

    paths: tuple[str, ...]
    rejects: tuple[Reject, ...]

    @property
    def n_in(self) -> int:
        """Number of inputs to account for."""
        return len(self.paths) + len(self.rejects)


def expand_inputs(
    arguments: Any,
    *,
    leave_out: Iterable[str | os.PathLike[str]] = (),
) -> Inputs:
    """Expand files, folders (recursively, hidden files left out), globs, ``@lists`` and packs.

    Parameters
    ----------
    arguments : path or iterable of path
        ``@name`` is a text file with one such argument a line; blank lines and lines that start
        with ``#`` are skipped; relative names count from the current folder, else from the list's;
        names that no line can hold are written as `jaxmdwarf.catalogue.texts.escape_path` does.
    leave_out : iterable of path
        Files in folders that are no inputs, such as the products of an earlier run.

    Returns
    -------
    Inputs
        What cannot be expanded is a reject, with a reason and a remedy.

    Raises
    ------
    UsageError
        If an argument is no path at all, or a pack that cannot be opened.
    FormatError
        If a Zarr store is no pack of spectra, or one of another version.
    """
    if isinstance(arguments, str | os.PathLike):
        arguments = [arguments]
    expansion = _Expansion(leave_out)
    for argument in arguments:
        try:
            name = os.fsdecode(argument)
        except TypeError:
            raise UsageError(
                f"{argument!r} is no path.", "give paths of files, folders or lists as text."
            ) from None
        expansion.add_argument(name)
    return Inputs(tuple(expansion.paths), tuple(expansion.rejects))


class _Expansion:
    """Paths and rejects as they are found."""

    def __init__(self, leave_out: Iterable[str | os.PathLike[str]]) -> None:
        self.paths: list[str] = []
        self.rejects: list[Reject] = []
        self._seen: dict[str, str] = {}
        self._products = {os.path.realpath(path) for path in leave_out}

    def add_argument(self, argument: str, *, base: str | None = None) -> None:
        """What one argument stands for; `base` is the folder of the list that it stands in."""
        if not argument.strip() or "\0" in argument:
            return self._reject(argument, "is no name of a file", "give a path")
        if is_url(argument):
            return self._add_pack(argument)
        if base is not None and not os.path.isabs(argument) and not os.path.lexists(argument):
            argument = os.path.join(base, argument)
        if argument.startswith("~") and not os.path.lexists(argument):
            argument = os.path.expanduser(argument)
        if os.path.isdir(argument):
            return self._add_directory(argument)
        if os.path.lexists(argument):
            return self._add(argument)
        if base is None and argument.startswith("@"):
            return self._add_list(argument[1:])
        if glob.has_magic(argument):
            return self._add_pattern(argument)
        remedy = "check the path"
        if "," in argument and os.path.lexists(argument.split(",")[0]):
            remedy = "separate names by spaces, not commas"
        self._reject(argument, "no such file", remedy)

    def _add(self, path: str) -> None:
        # Links to one file are one input; the first name is kept.
        real = os.path.realpath(path)
        if real in self._seen:
            first = self._seen[real]
            return self._reject(path, f"the same file as {first}", "name every file once")
        self._seen[real] = path
        self.paths.append(path)

    def _add_pack(self, name: str) -> None:
        real = name if is_url(name) else os.path.realpath(name)
        if real in self._seen:
            reason = f"the same pack as {self._seen[real]}"
            return self._reject(name, reason, "name every pack once")
        self._seen[real] = name
        self.paths += list_parts(name)

    def _add_directory(self, name: str) -> None:
        self._add_pack(name) if is_pack(name) else self._add_folder(name)

    def _add_folder(self, folder: str) -> None:
        # A stack of what is still to be listed: folders may be nested deeper than calls.
        waiting: list[Iterator[os.DirEntry[str]]] = [self._list(folder)]
        while waiting:
            entry = next(waiting[-1], None)
            if entry is None:
                waiting.pop()
            elif entry.is_dir(follow_symlinks=False) and is_pack(entry.path):
                self._add_pack(entry.path.removeprefix("./"))
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(self._list(entry.path.removeprefix("./")))
            elif entry.is_dir():
                self._reject(entry.path, "is a link to a folder", "name that folder itself")
            else:
                self._add(entry.path.removeprefix("./"))

    def _list(self, folder: str) -> Iterator[os.DirEntry[str]]:
        """Entries of a folder by name, without hidden ones and products."""
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            reason = f"the folder cannot be read: {error.strerror}"
            self._reject(folder, reason, "check its permissions, or name what is in it")
            return iter(())
        visible = [
            entry
            for entry in found
            if not entry.name.startswith(".") and os.path.realpath(entry.path) not in self._products
        ]
        if not visible:
            self._reject(folder, "is a directory without files", "leave it out or fill it")
        return iter(visible)

    def _add_pattern(self, pattern: str) -> None:
        found = sorted(glob.glob(pattern, recursive=True))
        for path in found:
            self._add_directory(path) if os.path.isdir(path) else self._add(path)
        if not found:
            self._reject(
                pattern, "the pattern matches no file", "check the pattern, and the current folder"
            )

    def _add_list(self, name: str) -> None:
        try:
            with open(name, "rb") as file:
                content = file.read()
        except OSError as error:
            reason = f"the list cannot be read: {error.strerror}"
            return self._reject(f"@{name}", reason, "check the path behind the @")
        if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
            reason = "the list is no text in UTF-8"
            return self._reject(f"@{name}", reason, "save it as UTF-8, one file name a line")
        # Names are bytes to the system: what is no UTF-8 comes back as it was.
        text = os.fsdecode(content.removeprefix(b"\xef\xbb\xbf"))
        lines = [line.strip() for line in re.split(r"\r\n|\n|\r", text)]
        lines = [line for line in lines if line and not line.startswith("#")]
        if not lines:
            return self._reject(f"@{name}", "the list is empty", "write one file name a line")
        base = os.path.dirname(name)
        for line in lines:
            # Names that no line can hold are written as tables have them.
            here = os.path.lexists(line) or os.path.lexists(os.path.join(base, line))
            self.add_argument(line if here else restore_path(line), base=base)

    def _reject(self, path: str, reason: str, remedy: str) -> None:
        self.rejects.append(Reject(path, reason, remedy))
