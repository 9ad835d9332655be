"""One run as several jobs: their tables together are the table of one job, bit for bit."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from jaxmdwarf.cli import main
from jaxmdwarf.errors import FormatError, UsageError, WorkFailed
from jaxmdwarf.io.inputs import Inputs
from jaxmdwarf.io.parts import PackPart
from jaxmdwarf.io.rejects import read_rejects
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.workflows.measuring import measure_files
from jaxmdwarf.workflows.sharding import Shard, _merge_provenance, merge_tables
from tests.io.conftest import write
from tests.io.spectra.conftest import write_desi

N_SHARD = 4


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Files of one to five spectra; copies in the same part and in others; two that are none."""
    folder = tmp_path_factory.mktemp("survey") / "night"
    folder.mkdir()
    content = write(folder / "00.fits").read_bytes()
    for number in range(1, 9):
        changed = content.replace(b"740103011", b"%09d" % (740_000_000 + number))
        (folder / f"{number:02d}.fits").write_bytes(changed)
    write_desi(folder / "03_coadd.fits", 5, objtype=["TGT", "SKY", "TGT", "TGT", "TGT"])
    write_desi(folder / "06_coadd.fits", 6)
    (folder / "04_text.fits").write_text("no spectrum")
    shutil.copy(folder / "01.fits", folder / "01_copy.fits")
    shutil.copy(folder / "01.fits", folder / "07_copy.fits")
    return folder


def measure_parts(night, folder, extension=".fits", n_shard=N_SHARD):
    parts = [folder / f"part-{number}{extension}" for number in range(1, n_shard + 1)]
    for number, part in enumerate(parts, 1):
        inputs = [night, night / "nothing.fits"]
        measure_files(inputs, part, shard=f"{number}/{n_shard}", processes=1)
    return parts


@pytest.fixture(scope="module")
def parts(night, tmp_path_factory):
    return measure_parts(night, tmp_path_factory.mktemp("parts"))


def rejects_of(out):
    return read_rejects(out.with_name(f"{out.stem}_rejects.csv"))


def test_merged_parts_are_the_table_of_one_job(night, parts, tmp_path):
    whole, merged = tmp_path / "whole.fits", tmp_path / "merged.fits"
    one = measure_files([night, night / "nothing.fits"], whole, processes=1)
    summary = merge_tables(parts[::-1], merged)
    assert (summary["parts"], summary["inputs"], summary["rows"], summary["rejected"]) == (
        N_SHARD,
        one["inputs"],
        one["measured"],
        one["rejected"],
    )
    table, expected = read_table(merged), read_table(whole)
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    # Pixels of a FITS file are the numbers themselves: nothing was rounded or widened on the way.
    assert data_of(merged) == data_of(whole)
    assert sorted(rejects_of(merged), key=str) == sorted(rejects_of(whole), key=str)
    copies = [one for one in rejects_of(merged) if one.reason.startswith("the same spectrum as")]
    assert [one.path.rsplit("/")[-1] for one in copies].count("07_copy.fits") == 1
    assert sum(len(read_table(part)) for part in parts) > len(table)
    about = table.attrs["provenance"]
    assert about["parts"] == str(N_SHARD)
    assert about["command_of_part_1"]


def data_of(path):
    from astropy.io import fits

    with fits.open(path) as hdus:
        return hdus["CATALOG"].data.tobytes()


@pytest.mark.parametrize("extension", [".parquet", ".csv"])
def test_parts_of_other_formats_merge(night, tmp_path, extension):
    parts = measure_parts(night, tmp_path, extension, n_shard=2)
    measure_files([night], tmp_path / f"whole{extension}", processes=1)
    merge_tables(parts, tmp_path / f"merged{extension}")
    table, expected = (read_table(tmp_path / f"{one}{extension}") for one in ("merged", "whole"))
    pd.testing.assert_frame_equal(table, expected, check_exact=True)


def test_a_part_may_have_nothing_that_is_usable(tmp_path):
    (tmp_path / "a.fits").write_text("no spectrum")
    write(tmp_path / "b.fits")
    parts = [tmp_path / f"{number}.csv" for number in (1, 2, 3)]
    files = [tmp_path / "a.fits", tmp_path / "b.fits"]
    for number, part in enumerate(parts, 1):
        measure_files(files, part, shard=f"{number}/3", processes=1)
    assert [len(read_table(part)) for part in parts] == [0, 1, 0] or [
        len(read_table(part)) for part in parts
    ] == [0, 0, 1]
    assert merge_tables(parts, tmp_path / "T.csv")["rows"] == 1
    with pytest.raises(WorkFailed, match="none of 1 inputs"):
        measure_files(files[:1], tmp_path / "alone.csv", processes=1)
    for number, part in enumerate(parts[:2], 1):
        measure_files(files[:1], part, shard=f"{number}/2", processes=1, overwrite=True)
    with pytest.raises(WorkFailed, match="none of 1 inputs"):
        merge_tables(parts[:2], tmp_path / "U.csv")


@pytest.mark.parametrize("n_shard", [1, 2, 3, 7, 40])
def test_parts_are_all_inputs_once_and_even(n_shard):
    paths = (
        *"abcdef",
        PackPart("p", "c", 0, 256),
        *"gh",
        PackPart("p", "c", 256, 300),
        *map(str, range(40)),
    )
    inputs = Inputs(paths, ())
    taken = [Shard(number, n_shard).take(inputs).paths for number in range(1, n_shard + 1)]
    assert tuple(path for own in taken for path in own) == paths
    # Chunks that a run works on together stay together, and begin where they do in a run of all.
    files = tuple(map(str, range(90)))
    whole = [Shard(number, n_shard).take(Inputs(files, ()), 32) for number in range(1, n_shard + 1)]
    assert tuple(path for own in whole for path in own.paths) == files
    assert {int(own.paths[0]) % 32 for own in whole if own.paths} == {0}
    if n_shard == 7:
        # Where nothing is indivisible they differ by one.
        files = Inputs(tuple(map(str, range(100))), ())
        sizes = [len(Shard(number, 7).take(files).paths) for number in range(1, 8)]
        assert set(sizes) == {14, 15}


def change(note, **entries):
    content = json.loads(note.read_text())
    for name, value in entries.items():
        content[name] = {**content[name], **value} if isinstance(value, dict) else value
    note.write_text(json.dumps(content))


def test_parts_that_do_not_belong_together_are_refused(night, parts, tmp_path):
    out = tmp_path / "T.fits"
    with pytest.raises(UsageError, match=r"of 4 parts there are 2: 2, 4 missing"):
        merge_tables([parts[0], parts[2]], out)
    with pytest.raises(UsageError, match="is part 1, and so is"):
        merge_tables([parts[0], *parts], out)
    with pytest.raises(UsageError, match="no parts were given"):
        merge_tables([], out)
    with pytest.raises(UsageError, match="there is no table"):
        merge_tables([tmp_path / "x.fits"], out)
    measure_files([night], tmp_path / "whole.fits", processes=1)
    with pytest.raises(UsageError, match="is no part of a run"):
        merge_tables([tmp_path / "whole.fits"], out)
    for entries, said in (
        ({"version": "0.0.1"}, "other version of jaxmdwarf"),
        ({"about": {"model": "f00d"}}, "other model"),
        ({"about": {"requirements": {"min_overlap": 0.1}}}, "other requirements"),
        ({"kind": "a fit"}, "other kind"),
    ):
        for one in parts[0].parent.iterdir():
            shutil.copy(one, tmp_path / one.name)
        change(tmp_path / "part-2_shard.json", **entries)
        with pytest.raises(UsageError, match=said):
            merge_tables([tmp_path / part.name for part in parts], out)
    (tmp_path / "part-2_shard.json").write_text("{")
    with pytest.raises(FormatError, match="run this part again"):
        merge_tables([tmp_path / part.name for part in parts], out)
    assert not list(tmp_path.glob("T*"))


def test_a_part_goes_on_as_the_part_that_it_was(night, tmp_path, monkeypatch):
    from jaxmdwarf.workflows import measuring

    monkeypatch.setattr(measuring, "CHUNK_SIZE", 2)
    out = tmp_path / "1.csv"
    write_table = measuring.write_table
    monkeypatch.setattr(measuring, "write_table", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measure_files([night], out, shard="1/2", processes=1)
    monkeypatch.setattr(measuring, "write_table", write_table)
    with pytest.raises(UsageError, match=r"shard 1/2 instead of 2/2"):
        measure_files([night], out, shard="2/2", processes=1)
    measure_files([night], out, shard="1/2", processes=1)
    measure_files([night], tmp_path / "2.csv", shard="2/2", processes=1)
    assert merge_tables([out, tmp_path / "2.csv"], tmp_path / "T.csv")["parts"] == 2


def test_the_command_line_divides_and_merges(night, tmp_path, capsys):
    for number in (1, 2):
        words = ["measure", str(night), "--out", str(tmp_path / f"{number}.fits")]
        assert main([*words, "--shard", f"{number}/2", "--processes", "1"]) == 0
    out = tmp_path / "T.fits"
    names = [str(tmp_path / f"{number}.fits") for number in (1, 2)]
    capsys.readouterr()
    assert main(["merge", *names, "--out", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["rows"] == len(read_table(out)) == summary["inputs"] - summary["rejected"]
    for shard in ("0/2", "3/2", "1", "a/b"):
        assert main(["measure", str(night), "--out", "U.fits", "--shard", shard]) == 2
        assert f"--shard '{shard}' is no part" in capsys.readouterr().err


def test_packs_of_all_parts_are_told_once():
    def note(packs):
        return {"provenance": {"model_hash": "h", **({"packs": packs} if packs else {})}}

    def merge(*packs):
        notes = [(Path(f"{number}.parquet"), note(one)) for number, one in enumerate(packs)]
        return _merge_provenance(notes, ["merge"]).notes

    assert merge("a; b", None, "b; c")["packs"] == "a; b; c"
    assert "packs" not in merge(None, None)
