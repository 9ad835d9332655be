"""Files of several spectra: every spectrum ends in a row or a reject, by file and number."""

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.io.rejects import read_rejects
from jaxmdwarf.io.spectra.readers import read_rows, read_spectra
from jaxmdwarf.workflows import run as run_module
from jaxmdwarf.workflows.measuring import measure_files
from tests.io.spectra.conftest import write_desi, write_mwm


@pytest.fixture
def night(tmp_path):
    """Two DESI files (a sky fibre and an empty target among six), one star of SDSS-V, one text."""

    def edit(images):
        for arm in "BRZ":
            images[f"{arm}_IVAR"][1] = 0

    folder = tmp_path / "night"
    folder.mkdir()
    write_desi(folder / "a_coadd.fits", 4, edit=edit, objtype=["TGT", "TGT", "SKY", "TGT"])
    write_desi(folder / "b_coadd.fits", 2)
    write_mwm(folder / "c_mwmVisit.fits", (2, 0, 1, 0), visits=True)
    (folder / "d.fits").write_text("no spectrum")
    return folder


# The targets of the second file are copies of the first two of the first, of which one is empty.
ROWS = [
    ("a_coadd.fits", 0),
    ("a_coadd.fits", 3),
    ("b_coadd.fits", 1),
    ("c_mwmVisit.fits", 0),
    ("c_mwmVisit.fits", 1),
]
REJECTS = [("a_coadd.fits", 1), ("a_coadd.fits", 2), ("b_coadd.fits", 0), ("d.fits", None)]


def places(table):
    return [
        (path.rsplit("/")[-1], int(n))
        for path, n in zip(table["path"], table["spectrum"], strict=True)
    ]


@pytest.mark.parametrize("processes", [1, 2])
def test_measuring_accounts_for_every_spectrum(night, tmp_path, processes):
    out = tmp_path / "T.csv"
    summary = measure_files([night], out, processes=processes)
    assert (summary["inputs"], summary["measured"], summary["rejected"]) == (9, 5, 4)
    table = pd.read_csv(out, comment="#")
    assert places(table) == ROWS
    rejects = read_rejects(tmp_path / "T_rejects.csv")
    assert [(r.path.rsplit("/")[-1], r.spectrum) for r in rejects] == REJECTS
    assert rejects[2].reason.startswith("the same spectrum as")
    assert "a_coadd.fits" in rejects[2].reason
    # Visits were shifted to the rest frame by Astra; the catalogue has the star's own velocity.
    assert table["RV_used"].iloc[3] == pytest.approx(35.0)
    assert (table["TiO5"] < 0.8).all()


def test_a_run_that_was_stopped_between_large_files_goes_on(night, tmp_path, monkeypatch):
    measure_files([night], tmp_path / "whole.csv", processes=1)
    # Every DESI file fills a chunk of its own.
    monkeypatch.setattr(run_module, "CHUNK_BYTES", 300_000)
    keep = run_module.Run.keep

    def stop_at_third(self, number, chunk):
        if number == 2:
            raise KeyboardInterrupt
        keep(self, number, chunk)

    monkeypatch.setattr(run_module.Run, "keep", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        measure_files([night], tmp_path / "T.csv", processes=1)
    monkeypatch.setattr(run_module.Run, "keep", keep)
    said = []

    class Listener(run_module.Silent):
        def say(self, text):
            said.append(text)

    summary = measure_files([night], tmp_path / "T.csv", processes=1, progress=Listener())
    assert said == ["resuming: 2 of 4 files are done."]
    assert (summary["inputs"], summary["measured"], summary["rejected"]) == (9, 5, 4)
    whole, again = (pd.read_csv(tmp_path / f"{name}.csv", comment="#") for name in ("whole", "T"))
    pd.testing.assert_frame_equal(whole, again)


def test_rows_lead_back_to_their_spectra(night):
    paths = [str(night / name) for name, _ in ROWS]
    spectra = read_rows(paths, [number for _, number in ROWS])
    for spectrum, (name, number) in zip(spectra, ROWS, strict=True):
        direct = read_spectra(night / name)[number]
        np.testing.assert_array_equal(spectrum.flux, direct.flux)
        assert spectrum.meta.index == number
