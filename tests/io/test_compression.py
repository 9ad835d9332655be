"""Compressed files: read, or named as what they are, within limits of time and memory."""

import bz2
import gzip
import io
import lzma
import tarfile
import time
import zipfile
import zlib

import pytest

from jaxmdwarf.errors import FormatError, RejectedInput
from jaxmdwarf.io import compression, tables
from jaxmdwarf.io.compression import decompress, read_file_bytes, require_bounded
from jaxmdwarf.io.isochrones import read_isochrones
from jaxmdwarf.io.tables import read_table

CONTENT = b"SIMPLE  =                    T" + bytes(range(256)) * 40
PACK = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("kind", PACK)
def test_content_comes_back_whatever_the_name(tmp_path, kind):
    path = tmp_path / "a.fits"
    path.write_bytes(PACK[kind](CONTENT))
    assert read_file_bytes(path) == CONTENT


@pytest.mark.parametrize("kind", PACK)
def test_streams_of_several_members_are_joined(kind):
    pack = PACK[kind]
    joined = pack(CONTENT[:3000]) + pack(b"") + pack(CONTENT[3000:9000]) + pack(CONTENT[9000:])
    assert decompress(joined, "a") == CONTENT


@pytest.mark.parametrize("outer", PACK)
@pytest.mark.parametrize("inner", PACK)
def test_what_was_compressed_twice_is_named(outer, inner):
    with pytest.raises(RejectedInput, match=f"twice \\({inner} inside {outer}\\)") as caught:
        decompress(PACK[outer](PACK[inner](CONTENT)), "night/a.fits.gz")
    assert caught.value.remedy.endswith(" night/a.fits.gz")


def zip_of(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.fits", content)
    return buffer.getvalue()


def tar_of(content):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("a.fits")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "what", "remedy"),
    [
        (zip_of(CONTENT), "zip archive", "unzip a.zip"),
        (tar_of(CONTENT), "tar archive", "tar -xf a.zip"),
        (gzip.compress(tar_of(CONTENT)), "tar archive", "tar -xf a.zip"),
        (b"\x28\xb5\x2f\xfd" + CONTENT, "zstd", "unzstd a.zip"),
        (b"\x1f\x9d" + CONTENT, "compress", "gunzip a.zip"),
        (b"\n <!DOCTYPE html>\n<html><body>Please log in", "web page", "login"),
    ],
)
def test_archives_and_pages_are_named(data, what, remedy):
    with pytest.raises(RejectedInput, match=what) as caught:
        decompress(data, "a.zip")
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("kind", PACK)
def test_cut_and_damaged_streams_are_refused(kind):
    packed = PACK[kind](CONTENT)
    with pytest.raises(RejectedInput, match=f"truncated {kind} stream"):
        decompress(packed[: len(packed) // 2], "a")
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0xFF
    with pytest.raises(RejectedInput, match=kind):
        decompress(bytes(damaged), "a")
    with pytest.raises(RejectedInput, match=f"zero bytes inside {kind}"):
        decompress(PACK[kind](b""), "a")


@pytest.mark.parametrize("kind", PACK)
def test_a_bomb_is_refused_at_the_limit(kind, monkeypatch):
    monkeypatch.setattr(compression, "FREE_BYTES", 1 << 20)
    monkeypatch.setattr(compression, "MAX_RATIO", 10)
    bomb = PACK[kind](bytes(4 << 20))
    with pytest.raises(RejectedInput, match="expand to more than 1 MiB"):
        decompress(bomb, "a")
    # Many members may not add up to more either.
    with pytest.raises(RejectedInput, match="expand to more than"):
        decompress(PACK[kind](bytes(300_000)) * 5, "a")
    assert len(decompress(PACK[kind](bytes(1 << 19)), "a")) == 1 << 19


def test_many_empty_members_take_no_time_of_their_square():
    member = zlib.compressobj(wbits=31)
    empty = member.compress(b"") + member.flush()
    began = time.process_time()
    with pytest.raises(RejectedInput, match="gzip streams in one file"):
        decompress(empty * 100_000, "a")
    assert time.process_time() - began < 5.0


@pytest.mark.parametrize("kind", PACK)
def test_compressed_tables_stand_for_no_more_than_they_may(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(compression, "MAX_RATIO", 10)
    path = tmp_path / "T.csv.gz"
    rows = b"a,b\n" + b"1,2\n" * 40_000
    path.write_bytes(PACK[kind](rows))
    require_bounded(path, free_bytes=len(rows))
    with pytest.raises(RejectedInput, match=f"bytes of {kind} expand to more than"):
        require_bounded(path, free_bytes=len(rows) - 1)
    path.write_bytes(PACK[kind](rows)[:-30])
    with pytest.raises(RejectedInput, match=f"damaged {kind} stream"):
        require_bounded(path, free_bytes=len(rows))
    path.write_bytes(rows)
    require_bounded(path, free_bytes=0)


def test_readers_of_tables_ask_first(tmp_path, monkeypatch):
    monkeypatch.setattr(compression, "MAX_RATIO", 10)
    monkeypatch.setattr(compression, "MAX_BYTES", 1 << 16)
    monkeypatch.setattr(tables, "FREE_BYTES", 1 << 16)
    for name in ("T.csv.gz", "T.fits.gz", "T.vot.gz", "T.ecsv.gz", "T.mrt.gz", "T.tsv.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"a" * (1 << 17)))
        with pytest.raises(FormatError, match="expand to more than 0 MiB"):
            read_table(tmp_path / name)
    (tmp_path / "isochrones.dat.gz").write_bytes(gzip.compress(b"#" * (1 << 17)))
    with pytest.raises(FormatError, match="expand to more than 0 MiB"):
        read_isochrones(tmp_path / "isochrones.dat.gz")
