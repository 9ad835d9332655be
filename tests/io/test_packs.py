"""Packs in the small: what is written where, and what a part of one gives back."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from jaxmdwarf.errors import FormatError, UsageError
from jaxmdwarf.io.packs import layout, reading, store, writing
from jaxmdwarf.io.packs.layout import GroupKey, PackIndex, digest_record
from jaxmdwarf.io.parts import PackPart, count_spectra, measure_size
from jaxmdwarf.io.spectra.records import NO_HEADER, LogGrid, SpectrumRecord

zarr = pytest.importorskip("zarr", reason="packs are an extra: install jaxmdwarf[pack]")


def record(number, n_pix, *, log=True, dtype="float32", kind="Layout A!", shift=0.0):
    rng = np.random.default_rng(number)
    flux = rng.normal(9, 1, n_pix).astype(dtype)
    ivar = rng.uniform(0, 5, n_pix).astype("float32")
    pixels = LogGrid(3.7 + shift, 1e-4 * (1 + number % 2), n_pix)
    if not log:
        pixels = 6000.0 + shift + 1.5 * np.arange(n_pix)
    header = {
        "path": f"größe {number}.fits",
        "index": number % 3,
        "layout": kind,
        "z": 1e-3 * number,
    }
    return SpectrumRecord(pixels, flux, ivar, {**NO_HEADER, **header}, what=f"what {number}")


def mixed():
    """Three groups, whose spectra come in turns; wavelength vectors some of which are shared."""
    return [
        record(0, 600),
        record(1, 512, log=False),
        record(2, 1024),
        record(3, 700, log=False, dtype="float64", shift=1.0),
        record(4, 513),
        record(5, 512, log=False),
        record(6, 500, log=False, shift=2.0),
        record(7, 650, log=False, dtype="float64", shift=1.0),
        record(8, 1000),
    ]


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """All of them in two commands of two chunks each, two spectra a chunk of pixels."""
    for module in (store, reading, writing):
        monkeypatch.setattr(module, "PART_ROWS", 2)
    for module in (reading, writing):
        monkeypatch.setattr(module, "COLUMN_ROWS", 4)
    monkeypatch.setattr(writing, "_SOLUTION_ROWS", 2)
    pack = str(tmp_path / "survey.zarr")
    records = [(one, 1000 + number) for number, one in enumerate(mixed())]
    index, rows = PackIndex(), []
    for some in (records[:3], records[3:]):
        writer = writing.PackWriter(pack, index)
        for first in range(0, len(some), 2):
            rows += writer.add(some[first : first + 2])
        index = writer.commit({"command": f"pack {len(some)}"})
    reading._open_pack.cache_clear()
    yield pack, index, rows
    reading._open_pack.cache_clear()


def test_spectra_come_back_in_their_order_from_every_part(packed):
    pack, index, _ = packed
    parts = store.list_parts(pack)
    assert [(part.first, part.last) for part in parts] == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 9)]
    found = [placed for part in parts for placed in reading.read_part(part)]
    for number, (placed, one) in enumerate(zip(found, mixed(), strict=True)):
        assert placed[:2] == (f"größe {number}.fits", number % 3)
        back = placed.found
        assert type(back.pixels) is type(one.pixels)
        np.testing.assert_array_equal(back.pixels, one.pixels)
        for name in ("flux", "ivar"):
            values, expected = getattr(back, name), getattr(one, name)
            assert values.dtype == expected.dtype
            np.testing.assert_array_equal(values, expected)
        assert repr((dict(back.meta), back.what)) == repr((dict(one.meta), one.what))
        assert back.known_hash == 1000 + number
    whole = PackPart(pack, index.content, 0, 9)
    assert reading.read_places(whole) == [(f"größe {n}.fits", n % 3) for n in range(9)]
    assert [one.found.what for one in reading.read_part(whole.choose([7, 2, 3]))] == [
        "what 7", "what 2", "what 3",
    ]  # fmt: skip
    assert reading.read_places(whole.choose([8, 1])) == [("größe 8.fits", 2), ("größe 1.fits", 1)]
    assert reading.read_hashes(pack).tolist() == list(range(1000, 1009))


def test_the_index_counts_what_groups_hold(packed):
    pack, index, rows = packed
    assert store.read_index(pack) == index
    assert [one.group for one in rows] == [f"layout-a-{n}" for n in (0, 1, 0, 2, 0, 1, 1, 2, 0)]
    assert [one.solution for one in rows] == [-1, 0, -1, 0, -1, 0, 1, 1, -1]
    entries = {name: (one.n_spectrum, one.n_solution) for name, one in index.groups.items()}
    assert entries == {"layout-a-0": (4, 0), "layout-a-1": (3, 2), "layout-a-2": (2, 2)}
    assert index.n_spectrum == 9
    root = zarr.open_group(pack, mode="r")
    assert root.attrs["n_spectrum"] == 9
    for name, (n_spectrum, n_solution) in entries.items():
        arrays = dict(root[name].arrays())
        for column, array in arrays.items():
            assert array.shape[0] == (n_solution if column == "wavelength" else n_spectrum)
        assert arrays["flux"].shape[1] == {"0": 1024, "1": 512, "2": 1024}[name[-1]]
        assert arrays["flux"].metadata.dimension_names == ("spectrum", "pixel")
        assert ("coeff0" in arrays) is (name[-1] == "0")
    assert root["layout-a-1"]["wavelength"].metadata.dimension_names == ("solution", "pixel")
    assert root["layout-a-0"]["position"][:].tolist() == [0, 2, 4, 8]
    assert not root["layout-a-0"]["flux"][0, 600:].any()
    # The first command's content is that of its first three spectra.
    digests = [digest_record(one, 1000 + n) for n, one in enumerate(mixed())]
    assert [one.digest for one in rows] == digests
    assert index.content == layout.extend_content("", digests)
    assert [one["content"] for one in index.written] == [
        layout.extend_content("", digests[:3]), index.content,
    ]  # fmt: skip
    assert index.begins_with(layout.extend_content("", digests[:3]))
    assert not index.begins_with(layout.extend_content("", digests[:4]))
    sizes = [path.stat().st_size for path in Path(pack).rglob("*") if path.is_file()]
    assert writing.measure_disk(pack) == sum(sizes)


def test_a_second_process_counts_what_the_first_noted_and_cuts_the_rest(tmp_path):
    pack = str(tmp_path / "survey.zarr")
    records = [(one, n) for n, one in enumerate(mixed())]
    first = writing.PackWriter(pack, PackIndex())
    noted = first.add(records[:4])
    first.add(records[4:])  # written, and stopped before it was noted
    second = writing.PackWriter(pack, PackIndex())
    second.resume(noted)
    second.add(records[4:7])
    index = second.commit({})
    reading._open_pack.cache_clear()
    assert index.n_spectrum == 7
    part = PackPart(pack, index.content, 0, 7)
    assert [one.found.what for one in reading.read_part(part)] == [f"what {n}" for n in range(7)]
    digests = [digest_record(*one) for one in records[:7]]
    assert index.content == layout.extend_content("", digests)
    group = zarr.open_group(pack, mode="r")["layout-a-0"]
    assert group["flux"].shape[0] == 3
    lost = writing.PackWriter(str(tmp_path / "other.zarr"), PackIndex())
    with pytest.raises(UsageError, match="is not there any more"):
        lost.resume(noted)


def test_what_was_begun_is_withdrawn_and_what_was_there_stays(tmp_path):
    pack = tmp_path / "survey.zarr"
    writer = writing.PackWriter(str(pack), PackIndex())
    writer.add([(record(0, 600), 1)])
    writer.withdraw()
    assert not pack.exists()
    writer = writing.PackWriter(str(pack), PackIndex())
    writer.add([(record(0, 600), 1)])
    index = writer.commit({})
    more = writing.PackWriter(str(pack), index)
    more.add([(record(1, 512, log=False), 2)])
    more.withdraw()
    assert {path.name for path in pack.iterdir() if path.is_dir()} == {"layout-a-0"}
    assert store.read_index(str(pack)) == index


def test_groups_hold_spectra_of_one_kind_and_width():
    key = GroupKey.of(record(0, 513, dtype="float64"))
    assert key == GroupKey("Layout A!", "float64", "float32", True, 1024)
    assert key.n_bytes == 1024 * 12
    assert GroupKey.of(record(0, 512)).width == 512
    assert {"coeff0", "coeff1"} < set(key.columns)
    assert "solution" not in key.columns
    table = GroupKey.of(record(0, 513, log=False))
    assert "solution" in table.columns
    assert "coeff0" not in table.columns
    assert key.choose_name({"layout-a-0", "layout-a-2"}) == "layout-a-1"
    assert key.choose_name(set()) == "layout-a-0"
    assert key._replace(layout="--").choose_name({"spectra-0", "spectra-1"}) == "spectra-2"
    # Of a fill value no reader gives: numbers, truth values and texts.
    kinds = {name: layout.HEADER_COLUMNS[name] for name in ("z", "index", "path")}
    assert kinds["z"] == ("float64", -np.inf)
    assert kinds["index"] == ("int32", -1)
    assert kinds["path"] == ("string", "\x1a")
    truths = [name for name, value in NO_HEADER.items() if isinstance(value, bool)]
    assert truths
    assert all(layout.HEADER_COLUMNS[name] == ("int8", -1) for name in truths)


def test_a_digest_sees_all_that_is_known_of_a_spectrum():
    one = record(3, 600)
    changed = [
        (one, 2),
        (record(4, 600), 1),
        (SpectrumRecord(one.pixels._replace(coeff1=2e-4 + 1e-9), one.flux, one.ivar, one.meta), 1),
        (SpectrumRecord(one.pixels, one.flux.astype("f8"), one.ivar, one.meta, what=one.what), 1),
        (SpectrumRecord(one.pixels, one.flux, one.ivar.astype("f8"), one.meta, what=one.what), 1),
        (SpectrumRecord(one.pixels, one.flux, one.ivar, {**one.meta, "z": 1.0}, what=one.what), 1),
        (SpectrumRecord(one.pixels, one.flux, one.ivar, one.meta, what="other"), 1),
    ]
    digests = {digest_record(one, 1), *(digest_record(*other) for other in changed)}
    assert len(digests) == 1 + len(changed)
    again = SpectrumRecord(one.pixels, one.flux.copy(), one.ivar, dict(one.meta), what=one.what)
    assert digest_record(again, 1) in digests


def test_indices_that_are_none_are_refused():
    index = PackIndex(
        "abc", {"a-0": layout.GroupEntry(GroupKey.of(record(0, 600)), 3, 2)}, ({"x": "y"},)
    )
    attributes = index.as_attributes()
    assert PackIndex.from_attributes(attributes, "p") == index
    for change, said in (
        ({"format": "other"}, "no pack of spectra"),
        ({"format_version": 0}, "format version 0, this is version 1"),
        ({"format_version": 2}, "format version 2, this is version 1"),
        ({"groups": {"a": {}}}, "is damaged"),
    ):
        with pytest.raises(FormatError, match=said):
            PackIndex.from_attributes({**attributes, **change}, "p")


def test_parts_count_and_travel():
    part = PackPart("s.zarr", "5f0c", 256, 500, 2440)
    assert (part, part.n_spectrum) == ("s.zarr[256:500]", 244)
    few = part.choose(iter([300, 301, 499]))
    assert (few, few.n_spectrum, few.n_bytes) == ("s.zarr[256:500], 3 of them", 3, 30)
    assert few.choose([300]).n_bytes == 10
    back = pickle.loads(pickle.dumps(few))
    for name in ("pack", "content", "first", "last", "n_bytes", "rows"):
        assert getattr(back, name) == getattr(few, name)
    assert back == few
    assert count_spectra(["a.fits", part, few]) == 248
    assert measure_size(few) == 30
    assert measure_size("no such file") == 0


def test_rows_are_split_by_chunks_and_numbers_into_runs(monkeypatch):
    monkeypatch.setattr(reading, "PART_ROWS", 4)
    assert list(reading._split_rows(slice(3, 10))) == [slice(3, 4), slice(4, 8), slice(8, 10)]
    assert list(reading._split_rows(slice(4, 8))) == [slice(4, 8)]
    assert list(reading._split_rows(slice(4, 4))) == []
    assert list(reading._find_runs([2, 3, 4, 7, 9, 10])) == [(2, 5), (7, 8), (9, 11)]


def test_wavelengths_of_an_earlier_command_are_shared_and_kept(tmp_path):
    """New ones go behind those that are there, whichever come first."""
    pack = str(tmp_path / "survey.zarr")
    shifts = [(0.0, 1.0), (2.0, 1.0, 0.0, 3.0)]
    index, number, written = PackIndex(), 0, []
    for some in shifts:
        writer = writing.PackWriter(pack, index)
        for shift in some:
            one = record(number, 512, log=False, shift=shift)
            written += writer.add([(one, number)])
            number += 1
        index = writer.commit({})
    assert [one.solution for one in written] == [0, 1, 2, 1, 0, 3]
    reading._open_pack.cache_clear()
    found = reading.read_part(PackPart(pack, index.content, 0, number))
    firsts = [float(placed.found.pixels[0]) for placed in found]
    assert firsts == [6000.0, 6001.0, 6002.0, 6001.0, 6000.0, 6003.0]
