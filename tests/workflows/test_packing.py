"""Packs: the same spectra as in the files, whatever they are, and nothing lost on the way."""

import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.api.inputs import read
from jaxmdwarf.cli import main
from jaxmdwarf.errors import FormatError, RejectedInput, UsageError, WorkFailed
from jaxmdwarf.io.inputs import expand_inputs
from jaxmdwarf.io.packs import layout, reading, store, writing
from jaxmdwarf.io.packs.store import list_parts, read_index
from jaxmdwarf.io.provenance import describe_inputs
from jaxmdwarf.io.rejects import read_rejects
from jaxmdwarf.io.spectra.readers import read_placed
from jaxmdwarf.io.spectra.records import LogGrid, SpectrumRecord
from jaxmdwarf.io.spectra.registry import SpectrumReader, register_reader, unregister_reader
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.workflows import measuring, packing
from jaxmdwarf.workflows.gridding import make_grid
from jaxmdwarf.workflows.measuring import measure_files
from jaxmdwarf.workflows.packing import pack_files
from tests.io.conftest import write
from tests.io.spectra.conftest import star, write_desi, write_mrs, write_mwm

zarr = pytest.importorskip("zarr", reason="packs are an extra: install jaxmdwarf[pack]")


def read_mine(file):
    """Double precision on pixels that no formula gives, three spectra on two sets of them."""
    seed = int(json.loads(bytes(file.data))["mine"])
    rng = np.random.default_rng(seed)
    waves = 6000.0 + np.cumsum(rng.uniform(1.0, 2.0, (2, 900)), axis=1)
    records = []
    for number, wave in enumerate(waves[[0, 0, 1]]):
        flux, ivar = star(wave, seed=seed + number)
        records.append(
            SpectrumRecord.from_arrays(
                file.path,
                wave,
                flux + rng.normal(0, 1e-9, wave.size),
                ivar.astype(float),
                obsid=f"{seed}\x1b{number} \\x41",
                z=1e-4,
            )
        )
    return records


@pytest.fixture
def mine():
    register_reader(SpectrumReader("mine", lambda file: file.head[:8] == b'{"mine":', read_mine))
    yield
    unregister_reader("mine")


@pytest.fixture
def small_chunks(monkeypatch):
    """Four spectra a chunk of pixels, eight a chunk of columns."""
    for module in (store, reading, writing):
        monkeypatch.setattr(module, "PART_ROWS", 4)
    for module in (reading, writing):
        monkeypatch.setattr(module, "COLUMN_ROWS", 8)


def fill_night(folder):
    """Files of four surveys with 1 to 9 spectra, a sky fibre, copies, and what cannot be read."""
    folder.mkdir()
    write_desi(folder / "a_coadd.fits", 9, objtype=["TGT", "TGT", "SKY", *["TGT"] * 6])
    content = write(folder / "b_000.fits").read_bytes()
    for number in range(1, 6):
        changed = content.replace(b"740103011", b"%09d" % (740_000_000 + number))
        (folder / f"b_{number:03d}.fits").write_bytes(changed)
    (folder / "b_copy.fits").write_bytes(content)
    write_mwm(folder / "c_mwmVisit.fits", (2, 0, 1, 0), visits=True)
    write_mrs(folder / "d_mrs.fits")
    (folder / "e.fits").write_text("no spectrum")
    (folder / "f\nname\udce9.fits").write_bytes(content.replace(b"740103011", b"740000007"))
    return folder


@pytest.fixture
def night(tmp_path):
    return fill_night(tmp_path / "night")


def tables(out):
    return read_table(out), read_rejects(out.with_name(f"{out.stem}_rejects.csv"))


def records_of(paths):
    return [placed for path in paths for placed in read_placed(path)]


def assert_same_spectra(first, second):
    """Places, values and types, bit for bit."""
    assert [placed[:2] for placed in first] == [placed[:2] for placed in second]
    for one, two in zip((p.found for p in first), (p.found for p in second), strict=True):
        assert one.flux.dtype == two.flux.dtype
        assert one.ivar.dtype == two.ivar.dtype
        assert one.flux.tobytes() == two.flux.tobytes()
        assert one.ivar.tobytes() == two.ivar.tobytes()
        assert isinstance(one.pixels, LogGrid) == isinstance(two.pixels, LogGrid)
        assert one.wave_aa.tobytes() == two.wave_aa.tobytes()
        assert repr(layout.NO_HEADER | one.meta) == repr(layout.NO_HEADER | two.meta)
        assert one.what == two.what
        assert one.content_hash() == two.content_hash()


def test_spectra_of_any_kind_come_back_as_they_were(night, tmp_path, mine, small_chunks):
    for seed in (1, 2):
        (night / f"g_{seed}.mine").write_text(json.dumps({"mine": seed}))
    out = tmp_path / "survey.zarr"
    summary = pack_files([night], out, processes=1)
    rejects = read_rejects(tmp_path / "survey_rejects.csv")
    assert summary["inputs"] == summary["packed"] + len(rejects)
    told = [(one.path.rsplit("/")[-1], one.spectrum) for one in rejects]
    assert told == [("a_coadd.fits", 2), ("b_copy.fits", 0), ("e.fits", None)]
    assert not (tmp_path / "survey.zarr.partial").exists()
    paths = [
        path for path in expand_inputs([night]).paths if not path.endswith(("copy.fits", "e.fits"))
    ]
    expected = [
        placed for placed in records_of(paths) if not isinstance(placed.found, RejectedInput)
    ]
    parts = list_parts(str(out))
    assert {part.n_spectrum for part in parts[:-1]} == {4}
    assert summary["spectra"] == len(expected) == sum(part.n_spectrum for part in parts)
    # Six kinds: the widths, types and wavelengths of four surveys and of one reader of our own.
    assert len(summary["groups"]) >= 5
    for _ in range(2):  # the second from what was kept of the first
        assert_same_spectra(records_of(parts), expected)
    some = parts[1].choose([5, 7])
    assert_same_spectra(records_of([some]), [expected[5], expected[7]])
    assert reading.read_places(some) == [expected[5][:2], expected[7][:2]]


def test_measurements_from_a_pack_are_those_from_the_files(night, tmp_path):
    pack_files([night], tmp_path / "survey.zarr", processes=1)
    measure_files([night], tmp_path / "files.fits", processes=1)
    summary = measure_files([tmp_path / "survey.zarr"], tmp_path / "pack.fits", processes=1)
    (expected, of_files), (table, rejects) = map(
        tables, (tmp_path / "files.fits", tmp_path / "pack.fits")
    )
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert table.attrs["provenance"].pop("packs").startswith(f"{tmp_path / 'survey.zarr'} ")
    # What readers refuse is among the rejects of the pack, what a measurement refuses here.
    of_pack = read_rejects(tmp_path / "survey_rejects.csv")
    assert sorted([*rejects, *of_pack], key=str) == sorted(of_files, key=str)
    assert [one.path.rsplit("/")[-1] for one in rejects] == ["d_mrs.fits"]
    assert summary["inputs"] == len(table) + len(rejects)


def test_a_pack_beside_files_and_in_folders_is_read_in_its_place(night, tmp_path):
    (night / "h").mkdir()
    pack_files([night / "a_coadd.fits"], night / "h" / "desi.zarr", processes=1)
    (night / "h" / "desi_rejects.csv").unlink()
    paths = expand_inputs([night]).paths
    assert str(paths[-1]) == f"{night / 'h' / 'desi.zarr'}[0:8]"
    assert (
        expand_inputs([night / "h" / "desi.zarr", night / "h"])
        .rejects[0]
        .reason.startswith("the same pack as")
    )
    measure_files([night], tmp_path / "T.csv", processes=1)
    _, rejects = tables(tmp_path / "T.csv")
    copies = [one for one in rejects if "a_coadd.fits" in one.reason]
    # Spectra of the pack are known by the file that they came from.
    assert [one.spectrum for one in copies] == [0, 1, *range(3, 9)]
    spectra = read(night / "h" / "desi.zarr")
    assert_same_flux(spectra, read(night / "a_coadd.fits"))
    with pytest.raises(UsageError, match="is a pack of spectra"):
        make_grid([night / "h" / "desi.zarr"], tmp_path / "grid.parquet")


def assert_same_flux(first, second):
    assert len(first) == len(second)
    for one, two in zip(first, second, strict=True):
        assert one.flux.tobytes() == two.flux.tobytes()
        assert one.meta.place == two.meta.place


def test_a_pack_that_was_added_to_is_one_that_was_packed_at_once(night, tmp_path, small_chunks):
    first, second = sorted(night.glob("[a-b]*")), sorted(night.glob("[c-f]*"))
    whole = pack_files([*first, *second], tmp_path / "whole.zarr", processes=1)
    out = tmp_path / "survey.zarr"
    pack_files(first, out, processes=1)
    with pytest.raises(UsageError, match="add --append to add to it"):
        pack_files(second, out, processes=1)
    summary = pack_files(second, out, append=True, processes=1)
    assert summary["content"] == whole["content"]
    assert summary["groups"] == whole["groups"]
    parts = list_parts(str(out))
    assert_same_spectra(records_of(parts), records_of(list_parts(str(tmp_path / "whole.zarr"))))
    again = pack_files(second, out, append=True, processes=1)
    assert (again["packed"], again["content"]) == (0, whole["content"])
    reasons = {one.reason for one in read_rejects(tmp_path / "survey_rejects.csv")}
    assert "the pack holds this spectrum already" in reasons
    # Runs are known by what a pack holds, wherever it is.
    renamed = out.rename(tmp_path / "other.zarr")
    assert describe_inputs(list_parts(str(renamed))) == describe_inputs(parts)
    pack_files([tmp_path / "whole.zarr", *first[:1]], tmp_path / "again.zarr", processes=1)
    assert read_index(str(tmp_path / "again.zarr")).content == whole["content"]


def test_what_is_there_stays_until_what_is_new_is_complete(night, tmp_path, monkeypatch):
    out = tmp_path / "survey.zarr"
    old, new = sorted(night.glob("b_00*")), [night / "a_coadd.fits", *night.glob("c*")]
    before = pack_files(old, out, processes=1)
    monkeypatch.setattr(packing, "CHUNK_SIZE", 1)
    commit = writing.PackWriter.commit
    for change in ({"append": True}, {"overwrite": True}):
        monkeypatch.setattr(writing.PackWriter, "commit", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pack_files(new, out, processes=1, **change)
        assert read_index(str(out)).content == before["content"]
        assert len(records_of(list_parts(str(out)))) == len(old)
        monkeypatch.setattr(writing.PackWriter, "commit", commit)
        if change == {"append": True}:
            with pytest.raises(UsageError, match="holds packing of"):
                pack_files(old, out, processes=1, append=True)
        summary = pack_files(new, out, processes=1, **change)
        assert summary["spectra"] == len(records_of(list_parts(str(out))))
        before = summary
        old = [*old, *range(summary["packed"])]
    # Nothing stays of what was replaced.
    assert set(summary["groups"]) == {path.name for path in out.iterdir() if path.is_dir()}
    assert not out.with_name("survey.zarr.partial").exists()


def test_a_run_killed_between_its_last_two_steps_was_complete(night, tmp_path, monkeypatch):
    out = tmp_path / "survey.zarr"
    monkeypatch.setattr(packing, "set_aside", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pack_files([night], out, processes=1)
    monkeypatch.undo()
    content = read_index(str(out)).content
    assert out.with_name("survey.zarr.partial").exists()
    summary = pack_files([night], out, append=True, processes=1)
    assert (summary["packed"], summary["content"]) == (0, content)
    assert not out.with_name("survey.zarr.partial").exists()


def test_a_killed_process_loses_no_spectrum(tmp_path, capsys):
    night = tmp_path / "night"
    night.mkdir()
    content = write(tmp_path / "one.fits").read_bytes()
    for number in range(24):
        changed = content.replace(b"740103011", b"%09d" % (740_000_000 + number))
        (night / f"{number:03d}.fits").write_bytes(changed)
    write_desi(night / "012_coadd.fits", 5)
    words = ["pack", str(night), "--out", str(tmp_path / "survey.zarr"), "--processes", "2"]
    program = (
        "import sys, time\n"
        "from jaxmdwarf.cli import main\n"
        "from jaxmdwarf.workflows import packing, run\n"
        "packing.CHUNK_SIZE = 4\n"
        "keep = run.Run.keep\n"
        # Killed after spectra are written, and before the note says so.
        "run.Run.keep = lambda self, n, one: time.sleep(99 * (n == 3)) or keep(self, n, one)\n"
        f"sys.exit(main({words!r}))\n"
    )
    partial = tmp_path / "survey.zarr.partial"
    running = subprocess.Popen([sys.executable, "-c", program])
    try:
        until = time.monotonic() + 300
        while not (partial / "chunk-000002.json").exists():
            assert running.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        assert main(words) == 2
        assert "another process" in capsys.readouterr().err
        time.sleep(0.5)
    finally:
        running.kill()
        assert running.wait() == -9
    with pytest.raises(UsageError, match="holds no spectrum: the command that packs was stopped"):
        list_parts(str(tmp_path / "survey.zarr"))
    assert main([*words, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    whole = pack_files([night], tmp_path / "whole.zarr", processes=1)
    assert (summary["spectra"], summary["content"]) == (29, whole["content"])
    resumed, undisturbed = (
        records_of(list_parts(str(tmp_path / name))) for name in ("survey.zarr", "whole.zarr")
    )
    assert_same_spectra(resumed, undisturbed)
    assert not list((tmp_path / "survey.zarr").rglob("*.partial"))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("array", "harm", "reason"),
    [
        ("flux", flip, "flux is damaged: Stored and computed checksum do not match"),
        ("ivar", lambda path: path.write_bytes(path.read_bytes()[:-9]), "ivar is damaged"),
        ("ivar", lambda path: path.write_bytes(b""), "ivar is damaged"),
        ("flux", lambda path: path.unlink(), "flux is missing"),
    ],
)
def test_a_damaged_chunk_of_pixels_costs_its_own_spectra_by_name(
    night, tmp_path, small_chunks, array, harm, reason
):
    out = tmp_path / "survey.zarr"
    pack_files(sorted(night.glob("[ac]*")), out, processes=1)
    measure_files([out], tmp_path / "whole.csv", processes=1)
    whole, _ = tables(tmp_path / "whole.csv")
    harm(out / "desi-0" / array / "c" / "1" / "0")
    reading._open_pack.cache_clear()
    summary = measure_files([out], tmp_path / "T.csv", processes=1)
    table, rejects = tables(tmp_path / "T.csv")
    assert summary["inputs"] == len(whole) == len(table) + 4
    # The fibre with the number 2 was sky.
    assert [(one.path, one.spectrum) for one in rejects] == [
        (str(night / "a_coadd.fits"), number) for number in (5, 6, 7, 8)
    ]
    assert all(reason in one.reason and "desi-0" in one.reason for one in rejects)
    kept = [*range(4), *range(8, len(whole))]
    pd.testing.assert_frame_equal(table, whole.iloc[kept].reset_index(drop=True), check_exact=True)


@pytest.mark.parametrize("column", ["path", "obsid", "n_pix"])
@pytest.mark.parametrize("harm", [flip, lambda path: path.unlink()], ids=["altered", "missing"])
def test_a_damaged_chunk_of_a_column_costs_its_own_spectra(
    night, tmp_path, small_chunks, column, harm
):
    out = tmp_path / "survey.zarr"
    pack_files([night / "a_coadd.fits", *night.glob("b_00*")], out, processes=1)
    harm(out / "desi-0" / column / "c" / "0")
    reading._open_pack.cache_clear()
    measure_files([out], tmp_path / "T.csv", processes=1)
    table, rejects = tables(tmp_path / "T.csv")
    assert len(table) == 6
    assert len(rejects) == 8
    if column == "path":  # names are lost
        expected = [(str(out), number) for number in range(8)]
    else:
        expected = [(str(night / "a_coadd.fits"), number) for number in (0, 1, *range(3, 9))]
    assert [(one.path, one.spectrum) for one in rejects] == expected
    assert all(f"desi-0/{column}" in one.reason for one in rejects)


def edit_root(pack, **changes):
    place = pack / "zarr.json"
    content = json.loads(place.read_text())
    content["attributes"] |= changes
    place.write_text(json.dumps(content))


def test_reader_processes_share_a_pack(tmp_path, monkeypatch):
    wave = 10 ** (3.76 + 2e-4 * np.arange(1000))
    (flux, ivar), grid = star(wave), LogGrid(3.76, 2e-4, wave.size)
    records = []
    for number in range(400):
        header = {"path": f"{number}.fits", "obsid": str(number), "layout": "x", "z": 0.0}
        record = SpectrumRecord(grid, flux, ivar, {**layout.NO_HEADER, **header})
        records.append((record, record.content_hash()))
    writer = writing.PackWriter(str(tmp_path / "survey.zarr"), layout.PackIndex())
    writer.add(records[:200])
    writer.add(records[200:])
    writer.commit({})
    flip(tmp_path / "survey.zarr" / "x-0" / "flux" / "c" / "1" / "0")
    monkeypatch.setattr(measuring, "CHUNK_SIZE", 200)  # parts are not divided: two chunks
    for processes in (1, 2):
        out = tmp_path / f"{processes}.parquet"
        summary = measure_files([tmp_path / "survey.zarr"], out, processes=processes)
        assert (summary["inputs"], summary["measured"]) == (400, 256)
    (one, of_one), (two, of_two) = (tables(tmp_path / f"{n}.parquet") for n in (1, 2))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert of_one == of_two
    assert [int(reject.path.removesuffix(".fits")) for reject in of_one] == list(range(256, 400))
    assert one["obsid"].tolist() == list(range(256))


def test_what_is_no_pack_of_this_version_is_told_before_any_work(night, tmp_path, monkeypatch):
    out = tmp_path / "survey.zarr"
    pack_files([night / "a_coadd.fits"], out, processes=1)
    (tmp_path / "folder.zarr").mkdir()
    zarr.open_group(tmp_path / "other.zarr", mode="w").create_array("x", shape=(2,), dtype="f4")
    edit_root(out, format_version=99)
    for name, error, said in (
        ("survey.zarr", FormatError, "a pack of format version 99, this is version 1"),
        ("folder.zarr", FormatError, "folder.zarr is no pack: it holds no Zarr group"),
        ("other.zarr", FormatError, "a Zarr store but no pack of spectra"),
    ):
        with pytest.raises(error, match=said):
            measure_files([tmp_path / name], tmp_path / "T.fits", processes=1)
        if name != "folder.zarr":
            with pytest.raises(error, match=said):
                pack_files([night], tmp_path / name, overwrite=True)
    edit_root(out, format_version=1, groups={"desi-0": {}})
    with pytest.raises(FormatError, match=r"the index of .*survey.zarr is damaged"):
        measure_files([out], tmp_path / "T.fits", processes=1)
    (out / "zarr.json").write_text('{"zarr_format": 3, "node_ty')
    with pytest.raises(FormatError, match="cannot be read as a pack"):
        measure_files([out], tmp_path / "T.fits", processes=1)
    with pytest.raises(UsageError, match="is a file"):
        pack_files([night], night / "e.fits")
    with pytest.raises(UsageError, match=r"there is no pack .* to add to"):
        pack_files([night], tmp_path / "new.zarr", append=True)
    with pytest.raises(UsageError, match="not both"):
        pack_files([night], tmp_path / "new.zarr", append=True, overwrite=True)
    with pytest.raises(WorkFailed, match="none of 1 inputs"):
        pack_files([night / "e.fits"], tmp_path / "new.zarr", processes=1)
    assert not list(tmp_path.glob("new.zarr*"))
    assert not list(tmp_path.glob("T*"))
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(UsageError, match=r'pip install "jaxmdwarf\[pack\]"'):
        pack_files([night], tmp_path / "new.zarr")


def test_a_pack_may_grow_under_a_run_but_not_change(night, tmp_path):
    out = tmp_path / "survey.zarr"
    pack_files([night / "a_coadd.fits"], out, processes=1)
    part = list_parts(str(out))[0]
    before = read_placed(part)
    pack_files(sorted(night.glob("b*")), out, append=True, processes=1)
    reading._open_pack.cache_clear()
    assert_same_spectra(read_placed(part), before)
    pack_files(sorted(night.glob("b*")), out, overwrite=True, processes=1)
    reading._open_pack.cache_clear()
    with pytest.raises(RejectedInput, match="has changed since the run began"):
        read_placed(part)


def test_readers_of_zarr_need_nothing_of_ours(night, tmp_path):
    out = tmp_path / "survey.zarr"
    pack_files([night], out, processes=1)
    group = zarr.open_group(out, mode="r")["desi-0"]
    assert group["flux"].metadata.dimension_names == ("spectrum", "pixel")
    n_pix = int(group["n_pix"][3])
    wave = group["wavelength"][int(group["solution"][3]), :n_pix]
    direct = read_placed(str(group["path"][3]))[int(group["index"][3])].found
    np.testing.assert_array_equal(wave, direct.wave_aa)
    np.testing.assert_array_equal(group["flux"][3, :n_pix], direct.flux)
    np.testing.assert_array_equal(group["ivar"][3, :n_pix], direct.ivar)
    named = group["flux"].metadata.to_dict()["codecs"]
    assert named[-1]["name"] == "crc32c"


def test_xarray_opens_a_group(night, tmp_path):
    xarray = pytest.importorskip("xarray")
    out = tmp_path / "survey.zarr"
    pack_files([night], out, processes=1)
    opened = xarray.open_zarr(out, group="desi-0", consolidated=False)
    assert opened["flux"].dims == ("spectrum", "pixel")
    assert opened["obsid"].dims == ("spectrum",)
    direct = read_placed(str(night / "a_coadd.fits"))[0].found
    np.testing.assert_array_equal(opened["flux"].values[0, : direct.flux.size], direct.flux)
    assert opened["obsid"].values[0] == direct.meta["obsid"]


@pytest.mark.slow
def test_a_pack_may_be_in_an_object_store(night, tmp_path, monkeypatch):
    """Against a local server of S3: written, added to, and read by other processes."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    try:
        pytest.importorskip("boto3").client("s3").create_bucket(Bucket="survey")
        first, second = sorted(night.glob("[a-b]*")), sorted(night.glob("[c-f]*"))
        pack_files(first, "s3://survey/dr9.zarr", processes=1)
        summary = pack_files(second, "s3://survey/dr9.zarr", append=True, processes=1)
        whole = pack_files([night], tmp_path / "whole.zarr", processes=1)
        assert summary["content"] == whole["content"]
        # What is told of a remote pack is told here.
        assert (tmp_path / "dr9_rejects.csv").exists()
        assert not (tmp_path / "dr9.zarr.partial").exists()
        measure_files(["s3://survey/dr9.zarr"], tmp_path / "remote.fits", processes=2)
        measure_files([tmp_path / "whole.zarr"], tmp_path / "local.fits", processes=1)
        table, expected = (read_table(tmp_path / f"{one}.fits") for one in ("remote", "local"))
        pd.testing.assert_frame_equal(table, expected, check_exact=True)
        for url, said in (
            ("s3://survey/none.zarr", "there is no pack"),
            ("s3://nowhere/dr9.zarr", "there is no pack"),
            ("nosuch://survey/dr9.zarr", "cannot be reached: Protocol not known"),
        ):
            with pytest.raises(UsageError, match=said):
                measure_files([url], tmp_path / "T.fits")
    finally:
        server.stop()
