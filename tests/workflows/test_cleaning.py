"""Files become a list of M dwarfs; what was done can be looked at, edited and repeated."""

import csv
import json

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.errors import FormatError, UsageError, WorkFailed
from jaxmdwarf.io.inputs import expand_inputs
from jaxmdwarf.io.rejects import read_rejects
from jaxmdwarf.io.spectra.readers import read_spectrum
from jaxmdwarf.preprocess.clean import CleaningConfig
from jaxmdwarf.preprocess.selection import SelectionConfig
from jaxmdwarf.wavelengths import PixelGrid
from jaxmdwarf.workflows import cleaning as stage
from jaxmdwarf.workflows.cleaning import Decisions, clean_files, read_decisions

GRID = PixelGrid.linear(5950.0, 8950.0, 1.0)
N_STAR, N_BLUE = 24, 8
DECISIONS = Decisions(cleaning=CleaningConfig(n_clusters=4, min_members=4))


@pytest.fixture(scope="module")
def night(tmp_path_factory, write_stars):
    """M dwarfs with a TiO band, then stars without one; one is faint, one file is empty."""
    folder = tmp_path_factory.mktemp("night")
    rng = np.random.default_rng(4)
    wave = GRID.wave_aa
    band = np.where((wave > 7050) & (wave < 7300), 0.5, 0.0)
    rise = (wave / 7000.0) ** 3
    dwarfs = [rise * (1 - band * rng.uniform(0.8, 1.2)) for _ in range(N_STAR)]
    blue = [(wave / 7000.0) ** -4 * rng.uniform(0.9, 1.1) for _ in range(N_BLUE)]
    snr_r = np.full(N_STAR + N_BLUE, 40.0)
    snr_r[3] = 2.0
    write_stars(
        folder,
        GRID,
        np.stack([*dwarfs, *blue]),
        np.zeros(N_STAR + N_BLUE),
        60.0,
        rng,
        log10_start=3.77,
        n_pix=1830,
        snr_r=snr_r,
    )
    (folder / "zero.fits").write_bytes(b"")
    return folder


@pytest.fixture
def gaia(tmp_path):
    """Photometry by obsid: one star is a binary, one a giant, one unknown."""
    n = N_STAR + N_BLUE
    table = pd.DataFrame(
        {
            "obsid": 1000 + np.arange(n),
            "ruwe": np.where(np.arange(n) == 5, 2.0, 1.0),
            "phot_g_mean_mag": np.where(np.arange(n) == 6, 5.0, 15.0),
            "phot_bp_mean_mag": 16.5,
            "phot_rp_mean_mag": 14.0,
            "parallax": 10.0,
        }
    )
    path = tmp_path / "gaia.csv"
    table[table["obsid"] != 1007].to_csv(path, index=False)
    return path


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def cleaned(night, tmp_path_factory):
    """The list of one run, and what the run says."""
    out = tmp_path_factory.mktemp("cleaned") / "good.txt"
    return out, clean_files([night], out, DECISIONS, processes=1)


def test_blue_and_faint_stars_leave_with_their_reasons_and_nothing_is_lost(cleaned):
    out, summary = cleaned
    kept = [path.rsplit("/", 1)[1] for path in out.read_text().splitlines()]
    assert kept == [f"star-{row:03d}.fits.gz" for row in range(N_STAR) if row != 3]
    reasons = {one.path.rsplit("/", 1)[1]: one for one in read_rejects(summary["rejects"])}
    assert summary["inputs"] == N_STAR + N_BLUE + 1 == len(kept) + len(reasons)
    assert "S/N in r 2 is not above 5" in reasons["star-003.fits.gz"].reason
    blue = reasons[f"star-{N_STAR:03d}.fits.gz"]
    assert "round 1" in blue.reason
    assert "tio5" in blue.reason
    assert "decisions.json" in blue.remedy
    assert summary["cuts_not_made"] == ["Gaia RUWE", "absolute magnitude in G", "BP-RP"]
    steps = summary["waterfall"]
    assert list(steps.values()) == sorted(steps.values(), reverse=True)
    assert (steps["inputs"], steps["read"], steps["S/N in r"]) == (33, 32, 31)
    assert steps[f"k-means round {summary['rounds']}"] == len(kept)
    # The list is one that other commands take.
    assert len(expand_inputs([f"@{out}"]).paths) == len(kept)


def test_the_records_show_every_round_and_every_spectrum(cleaned):
    out, summary = cleaned
    folder = out.with_name("good_cleaning")
    for number in range(1, summary["rounds"] + 1):
        assert (folder / f"round_{number}.png").stat().st_size > 5000
        rows = read_csv(folder / f"round_{number}.csv")
        assert sum(int(row["n_members"]) for row in rows) > 0
    members = read_csv(folder / "members.csv")
    assert len(members) == N_STAR + N_BLUE
    assert sum(row["kept"] == "1" for row in members) == summary["kept"]
    assert [row["step"] for row in read_csv(folder / "waterfall.csv")] == list(summary["waterfall"])


def test_decisions_can_be_edited_and_repeated(night, cleaned, tmp_path):
    out, first = cleaned
    records = out.with_name("good_cleaning")
    assert read_decisions(records / "decisions.json") == DECISIONS
    again = clean_files(
        [night], tmp_path / "b.txt", read_decisions(records / "decisions.json"), processes=1
    )
    assert (tmp_path / "b.txt").read_text() == out.read_text()
    # A person looks at the sheets and keeps what the rules dropped.
    dropped = [
        [1, int(row["cluster"])]
        for row in read_csv(records / "round_1.csv")
        if row["dropped"] == "True"
    ]
    edited = json.loads((records / "decisions.json").read_text())
    path = tmp_path / "decisions.json"
    edited["cleaning"]["keep"] = dropped
    edited["cuts"]["min_snr_r"] = None
    path.write_text(json.dumps(edited))
    everything = clean_files([night], tmp_path / "c.txt", read_decisions(path), processes=1)
    assert everything["kept"] == N_STAR + N_BLUE > again["kept"] == first["kept"]


def test_photometry_cuts_binaries_giants_and_the_unknown(night, gaia, tmp_path):
    summary = clean_files([night], tmp_path / "good.txt", DECISIONS, gaia=gaia, processes=1)
    assert summary["cuts_not_made"] == []
    assert summary["waterfall"]["Gaia RUWE"] == summary["waterfall"]["S/N in i"] - 1
    reasons = {
        int(one.path.rsplit("-", 1)[1][:3]): one.reason
        for one in read_rejects(summary["rejects"])
        if "star-" in one.path
    }
    assert "RUWE 2 is above 1.4" in reasons[5]
    assert "absolute magnitude in G 0 is not within" in reasons[6]
    assert reasons[7] == "no absolute magnitude in G is known"


def test_a_cache_serves_other_decisions_without_reading_again(night, tmp_path, monkeypatch):
    clean_files([night], tmp_path / "a.txt", DECISIONS, cache=tmp_path / "shapes", processes=1)
    monkeypatch.setattr(stage, "preprocess_batch", lambda *a, **k: pytest.fail("read again"))
    other = Decisions(SelectionConfig(min_snr_r=None), DECISIONS.cleaning)
    summary = clean_files([night], tmp_path / "b.txt", other, cache=tmp_path / "shapes")
    assert summary["kept"] == N_STAR


def test_what_is_in_the_way_is_told_before_any_file_is_read(night, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "open_output", lambda *a, **k: pytest.fail("began to work"))
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(UsageError, match=r"a\.txt exists"):
        clean_files([night], tmp_path / "a.txt")
    (tmp_path / "b_cleaning").mkdir()
    (tmp_path / "b_cleaning" / "round_1.png").write_text("old")
    with pytest.raises(UsageError, match="b_cleaning exists"):
        clean_files([night], tmp_path / "b.txt")
    pd.DataFrame({"obsid": [1], "colour": [2.0]}).to_csv(tmp_path / "g.csv", index=False)
    with pytest.raises(UsageError, match="Gaia table has none"):
        clean_files([night], tmp_path / "c.txt", gaia=tmp_path / "g.csv")
    with pytest.raises(UsageError, match="no such file"):
        clean_files([night], tmp_path / "c.txt", templates=[tmp_path / "none.fits"])
    with pytest.raises(UsageError, match=r"a\.txt: not a FITS file"):
        clean_files([night], tmp_path / "c.txt", templates=[tmp_path / "a.txt"])


def test_a_full_disk_is_told_before_any_file_is_read(night, tmp_path, monkeypatch, full_disk):
    monkeypatch.setattr(stage.Run, "map_files", lambda *a, **k: pytest.fail("began to work"))
    with pytest.raises(UsageError, match=r"are needed and 1\.0 kB are free"):
        clean_files([night], tmp_path / "a.txt")


def test_nothing_left_is_said_and_shown(night, tmp_path):
    strict = Decisions(cleaning=CleaningConfig(n_clusters=4, max_tio5=0.1))
    with pytest.raises(WorkFailed, match="none of 33 inputs"):
        clean_files([night], tmp_path / "a.txt", strict, processes=1)
    assert (tmp_path / "a_cleaning" / "round_1.png").exists()
    assert len(read_rejects(tmp_path / "a_rejects.csv")) == 33
    none = Decisions(SelectionConfig(min_snr_r=1e6))
    with pytest.raises(WorkFailed, match="none of 33 inputs"):
        clean_files([night], tmp_path / "b.txt", none, processes=1)


def test_wrong_decisions_are_named(tmp_path):
    path = tmp_path / "decisions.json"
    with pytest.raises(UsageError, match="cannot be read"):
        read_decisions(path)
    path.write_text("{")
    with pytest.raises(FormatError, match="no JSON"):
        read_decisions(path)
    path.write_text('{"cuts": {"max_ruve": 2}}')
    with pytest.raises(UsageError, match="max_ruve"):
        read_decisions(path)


def test_real_plate_loses_its_contaminants_and_keeps_its_m_dwarfs(real_data, tmp_path):
    decisions = Decisions(
        SelectionConfig(min_snr_r=None, min_snr_i=None),
        CleaningConfig(n_clusters=12, min_members=4),
    )
    folders = [real_data / "lamost", real_data / "lamost_plate"]
    out = tmp_path / "good.txt"
    templates = sorted((real_data / "lamost").glob("*.fits.gz"))[:4]
    clean_files(folders, out, decisions, templates=templates, processes=1)
    kept = set(out.read_text().splitlines())
    read = [row["path"] for row in read_csv(tmp_path / "good_cleaning" / "members.csv")]
    subclass = {path: read_spectrum(path).meta.subclass for path in read}
    dwarfs = [
        path
        for path in read
        if "/lamost/" in path and subclass[path].removeprefix("d").startswith("M")
    ]
    hot = [path for path in read if subclass[path][:1] in ("A", "F", "G")]
    assert len(dwarfs) >= 18
    assert np.mean([path in kept for path in dwarfs]) >= 0.9
    assert hot
    assert not kept & set(hot)


def test_a_cleaning_that_was_stopped_after_its_records_ends_with_the_same_call(
    night, cleaned, tmp_path, monkeypatch
):
    out = tmp_path / "good.txt"

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, "settle_accounts", stop)
        with pytest.raises(KeyboardInterrupt):
            clean_files([night], out, DECISIONS, processes=1)
    assert (tmp_path / "good_cleaning").is_dir()
    clean_files([night], out, DECISIONS, processes=1)
    assert out.read_text() == cleaned[0].read_text()
    # Records that a person may have edited are not replaced unasked.
    out.unlink()
    with pytest.raises(UsageError, match="good_cleaning exists"):
        clean_files([night], out, DECISIONS, processes=1)
