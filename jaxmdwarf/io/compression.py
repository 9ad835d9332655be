"""Bytes of files as they were before compression, told by content, never more than a limit.

A kilobyte can stand for gigabytes: decompression stops at `MAX_RATIO` times the size of the file
(at least `FREE_BYTES`), and at `MAX_BYTES` in any case.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxmdwarf.errors import RejectedInput

MAX_BYTES = 512 * 1024**2
"""Largest content of a compressed file, and largest file that is read at once."""

FREE_BYTES = 64 * 1024**2
"""Content up to this size may be compressed by any factor (a spectrum takes about 0.1 MB)."""

MAX_RATIO = 100
"""Larger content may take at most this many times the space of the file."""

MAX_MEMBERS = 20_000
"""Parts that one compressed file may consist of (block gzip writes one for every 64 kB)."""

_LZMA_MEMORY = 256 * 1024**2
_STEP = 4096

_PACKED = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
)
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive", "unpack it first: unzip {path}"),
    (b"\x1f\x9d", "compressed with compress (.Z)", "uncompress it first: gunzip {path}"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "uncompress it first: unzstd {path}"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first: 7z x {path}"),
    (b"Rar!", "a rar archive", "unpack it first: unrar x {path}"),
    (b"PAR1", "a Parquet table", "give the spectrum files themselves"),
    (b"\x93NUMPY", "a numpy array", "pass the arrays to jaxmdwarf.Spectrum.from_arrays"),
    (b"%PDF", "a PDF document", "leave it out"),
    (b"\x89PNG", "a picture", "leave it out"),
    (b"\xff\xd8\xff", "a picture", "leave it out"),
)


def read_file_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file, decompressed if they are gzip, bzip2 or xz.

    Raises
    ------
    RejectedInput
        If `path` is missing, a directory, unreadable, empty, too large, damaged, compressed
        twice, or an archive.
    """
    return decompress(read_raw(path), os.fspath(path))


def read_raw(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file as they are.

    Raises
    ------
    RejectedInput
        As `read_file_bytes`.
    """
    try:
        status = os.stat(path)
        # Opening a named pipe would wait for ever.
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise RejectedInput("is no regular file.", "give files or folders.")
        with open(path, "rb") as file:
            if status.st_size > MAX_BYTES:
                raise RejectedInput(
                    f"the file is larger than {MAX_BYTES // 1024**2} MiB.",
                    "split it into smaller files.",
                )
            raw = file.read()
    except FileNotFoundError:
        raise RejectedInput("no such file.", "check the path.") from None
    except IsADirectoryError:
        raise RejectedInput("is a directory.", "give its files, or the folder itself.") from None
    except PermissionError:
        # Opening a directory is a permission error on some systems.
        if Path(path).is_dir():
            raise RejectedInput(
                "is a directory.", "give its files, or the folder itself."
            ) from None
        raise RejectedInput("the file may not be read.", "check its permissions.") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise RejectedInput(f"the file cannot be read: {reason}.", "check the disk.") from None
    if not raw:
        raise RejectedInput("the file is empty (zero bytes).", "download it again.")
    return raw


def decompress(raw: bytes, name: str) -> bytes:
    """Content of `raw`, which may be compressed once; `name` is the path, for the remedies.

    Raises
    ------
    RejectedInput
        If the stream is damaged or too large, was compressed twice, or is an archive.
    """
    kind = name_compression(raw)
    if not kind:
        refuse_foreign(raw, name)
        return raw
    limit = min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * len(raw)))
    data = _inflate(raw, kind, limit)
    if not data:
        raise RejectedInput(
            f"the file is empty (zero bytes inside {kind}).", "download the file again."
        )
    inner = name_compression(data)
    if inner:
        raise RejectedInput(
            f"compressed twice ({inner} inside {kind}).",
            f"decompress it once: {_tool(kind)} {name}",
        )
    refuse_foreign(data, name)
    return data


def require_bounded(path: str | os.PathLike[str], *, free_bytes: int) -> None:
    """Hold that a compressed file, which others will read, does not stand for very much more.

    Its content may take any factor up to `free_bytes`, and `MAX_RATIO` times its size beyond.

    Raises
    ------
    RejectedInput
        If it expands to more, or is damaged.
    """
    size = os.stat(path).st_size
    limit = max(free_bytes, MAX_RATIO * size)
    with open(path, "rb") as file:
        kind = name_compression(file.read(8))
        file.seek(0)
        if not kind:
            return
        openers: dict[str, Callable[..., Any]] = {
            "gzip": gzip.open,
            "bzip2": bz2.open,
            "xz": lzma.open,
        }
        n_bytes = 0
        try:
            with openers[kind](file, "rb") as content:
                while piece := content.read(1 << 20):
                    n_bytes += len(piece)
                    if n_bytes > limit:
                        raise RejectedInput(
                            f"{size} bytes of {kind} expand to more than {limit // 1024**2} MiB.",
                            "unpack it yourself if it is what you want to read.",
                        )
        except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
            raise RejectedInput(f"damaged {kind} stream ({error}).", "fetch it again.") from None


def name_compression(data: bytes) -> str:
    """``"gzip"``, ``"bzip2"`` or ``"xz"`` if `data` begins like that, else an empty text."""
    return next((kind for magic, kind in _PACKED if data.startswith(magic)), "")


def refuse_foreign(data: bytes, name: str) -> None:
    """Raise `RejectedInput` for archives, documents and pages, by their first bytes."""
    for magic, what, remedy in _FOREIGN:
        if data.startswith(magic):
            raise RejectedInput(f"is {what}.", remedy.format(path=name))
    if data[257:262] == b"ustar":
        raise RejectedInput("is a tar archive.", f"unpack it first: tar -xf {name}")
    if data[:512].lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise RejectedInput(
            "is a web page, as servers send in place of a file.",
            "download the file again; the server may ask for a login.",
        )


def _tool(kind: str) -> str:
    return {"gzip": "gunzip", "bzip2": "bunzip2", "xz": "unxz"}[kind]


def _inflate(raw: bytes, kind: str, limit: int) -> bytes:
    """All members of a compressed stream, at most `limit` bytes."""
    parts: list[bytes] = []
    n_bytes, position, n_member = 0, 0, 0
    view = memoryview(raw)
    magic = next(magic for magic, name in _PACKED if name == kind)
    while raw.startswith(magic, position):
        n_member += 1
        if n_member > MAX_MEMBERS:
            raise RejectedInput(
                f"more than {MAX_MEMBERS} {kind} streams in one file.", "download it again."
            )
        stream = _open_stream(kind)
        # The usual single member at once; what follows in steps, so that many are not quadratic.
        step = len(raw) if n_member == 1 else _STEP
        while not stream.eof:
            piece = view[position : position + step]
            if not len(piece):
                raise RejectedInput(f"truncated {kind} stream.", "download the file again.")
            try:
                part = _feed(stream, piece, limit - n_bytes + 1)
            except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
                raise RejectedInput(
                    f"damaged {kind} stream ({error}).", "download the file again."
                ) from None
            n_bytes += len(part)
            if n_bytes > limit:
                raise RejectedInput(
                    f"{len(raw)} bytes of {kind} expand to more than {limit // 1024**2} MiB.",
                    "give spectra; this is no file of one, or a damaged one.",
                )
            parts.append(part)
            position += len(piece) - len(stream.unused_data)
            step = max(step, _STEP) if n_member == 1 else min(step * 2, 1 << 20)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _open_stream(kind: str) -> Any:
    if kind == "gzip":
        return zlib.decompressobj(wbits=31)
    if kind == "bzip2":
        return bz2.BZ2Decompressor()
    return lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)


def _feed(stream: Any, piece: memoryview, most: int) -> bytes:
    """Decompress a piece; one byte more than allowed is enough to know that it is too much."""
    return stream.decompress(piece, most)
