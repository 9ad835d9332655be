"""A cleaning leaves records from which it can be checked and repeated, also on real spectra."""

import csv

import numpy as np
import pytest

from jaxmdwarf.errors import RejectedInput, WorkFailed
from jaxmdwarf.io.spectra.readers import read_spectrum
from jaxmdwarf.preprocess.batch import preprocess_batch
from jaxmdwarf.preprocess.clean import CleaningConfig
from jaxmdwarf.preprocess.resample import require_overlap
from jaxmdwarf.spectra import RawSpectrum
from jaxmdwarf.wavelengths import PAPER_GRID
from jaxmdwarf.workflows.cleaning import clean_sample, read_config


def test_real_plate_loses_its_contaminants_and_keeps_its_m_dwarfs(real_data, tmp_path):
    raws, is_mdwarf = [], []
    for folder in ("lamost", "lamost_plate"):
        for path in sorted((real_data / folder).glob("*.fits.gz")):
            try:
                raw = read_spectrum(path)
                require_overlap(raw, PAPER_GRID)
            except RejectedInput:
                continue
            raws.append(raw)
            kind = raw.meta.subclass.removeprefix("d")
            is_mdwarf.append(folder == "lamost" and kind.startswith("M"))
    is_mdwarf = np.array(is_mdwarf)
    hot = np.array([raw.meta.subclass[:1] in ("A", "F", "G") for raw in raws])
    library = np.load(real_data / "bochanski2007_M0_M9_vac.npz")
    templates = [
        RawSpectrum(table[:, 0], table[:, 1], np.ones(len(table)))
        for table in (library[name] for name in sorted(library.files))
    ]
    options = {"sigma_aa": None, "masks": (), "min_overlap": 0.0}
    batches = [
        preprocess_batch(raws[start : start + 40], pad_to=40, **options)
        for start in range(0, len(raws), 40)
    ]
    config = CleaningConfig(n_clusters=12, min_members=4)
    cleaning = clean_sample(
        batches,
        [raw.meta.path for raw in raws],
        tmp_path,
        config=config,
        templates=preprocess_batch(templates, **options),
    )
    assert is_mdwarf.sum() >= 18
    assert cleaning.keep[is_mdwarf].mean() >= 0.9
    assert not cleaning.keep[hot].any()
    n_rounds = len(cleaning.rounds)
    names = {path.name for path in tmp_path.iterdir()}
    assert {f"round_{r}.{kind}" for r in range(1, n_rounds + 1) for kind in ("png", "csv")} < names
    with open(tmp_path / "members.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(raws)
    assert [row["kept"] == "1" for row in rows] == cleaning.keep.tolist()
    with open(tmp_path / "round_1.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert sum(int(row["n_members"]) for row in table) == len(raws)
    assert read_config(tmp_path / "config.json") == config


def test_nothing_left_is_said(tmp_path):
    wave = np.linspace(5900.0, 9000.0, 3000)
    raws = [RawSpectrum(wave, (wave / 7000.0) ** -k, np.ones(3000)) for k in range(1, 9)]
    batch = preprocess_batch(raws, sigma_aa=None, masks=())
    with pytest.raises(WorkFailed, match="every spectrum"):
        clean_sample([batch], [str(k) for k in range(8)], tmp_path)
    assert (tmp_path / "round_1.png").stat().st_size > 5000
