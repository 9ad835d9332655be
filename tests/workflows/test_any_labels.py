"""Label sets that nobody foresaw, from a grid table to a validated catalogue."""

import json

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from jaxmdwarf.catalogue.merging import join_gaia
from jaxmdwarf.inference.config import FitConfig, FitScheduleConfig
from jaxmdwarf.io.grids.table import ModelGrid, write_grid
from jaxmdwarf.io.models import load_model
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.labels import LABELS, Label, LabelSpace, register_label
from jaxmdwarf.quality import HARMFUL_FLAGS, QualityFlag
from jaxmdwarf.training.emulator.config import EmulatorConfig, NetworkConfig, ScheduleConfig
from jaxmdwarf.wavelengths import PixelGrid
from jaxmdwarf.workflows.emulator import train_emulator_files
from jaxmdwarf.workflows.fitting import fit_files
from jaxmdwarf.workflows.gridding import make_grid
from jaxmdwarf.workflows.validation_report import validate_files

PIXELS = PixelGrid.linear(6000.0, 6500.0, 1.0)
OPTIONS = FitConfig(chunk_size=32, schedule=FitScheduleConfig(batch_size=32))
TRAINING = EmulatorConfig(
    network=NetworkConfig(hidden=(24,), rank=8),
    schedule=ScheduleConfig(steps=400, warmup_steps=20, report_every=200),
)
N_STAR = 32


def line_strengths(scaled):
    """Spectra with forty narrow lines, whose depths are linear in the labels."""
    rng = np.random.default_rng(4)
    wave = PIXELS.wave_aa
    centre = np.linspace(6015, 6485, 40) + rng.normal(0, 3, 40)
    width = rng.uniform(2.5, 4.5, 40)
    lines = np.exp(-0.5 * ((wave - centre[:, None]) / width[:, None]) ** 2)
    response = rng.normal(0, 0.12, (8, 40))[: scaled.shape[1]]
    return 1.0 - (0.25 + scaled @ response) @ lines


@pytest.fixture
def carbon():
    """A fifth label, told in one place."""
    known = dict(LABELS)
    yield register_label(
        Label("c_o", "dex", "[C/O]", column="C_O", ucd="phys.abund", lower=-0.5, upper=0.5)
    )
    LABELS.clear()
    LABELS.update(known)


def run_chain(folder, names, write_stars, *, at_bound=None):
    """Grid, emulator, survey files, fit, validation; returns the catalogue and the metrics."""
    space = LabelSpace.named(names)
    rng = np.random.default_rng(11)
    scaled = rng.uniform(-0.5, 0.5, (300, len(names)))
    grid = ModelGrid(
        labels=space.unscale(scaled),
        label_space=space,
        flux=line_strengths(scaled).astype(np.float32),
        grid=PIXELS,
        resolution=1800.0,
        kind="simulated",
    )
    write_grid(grid, folder / "given.parquet")
    made = make_grid(
        [folder / "given.parquet"], folder / "grid.parquet", pixels=PIXELS, processes=1
    )
    assert set(made["labels"]) == set(names)
    train_emulator_files(folder / "grid.parquet", folder / "model", config=TRAINING)
    truth = rng.uniform(-0.35, 0.35, (N_STAR, len(names)))
    if at_bound is not None:
        truth[0, names.index(at_bound)] = 0.8
    rv_kms = rng.uniform(-60, 60, N_STAR)
    (folder / "spectra").mkdir()
    write_stars(
        folder / "spectra",
        PIXELS,
        line_strengths(truth),
        rv_kms,
        60.0,
        rng,
        log10_start=3.7795,
        n_pix=330,
    )
    labels = load_model(folder / "model").label_space.names
    assert labels == tuple(names)
    out = folder / "catalogue.fits"
    fit_files([folder / "spectra"], folder / "model", out, options=OPTIONS, processes=1)
    known = pd.DataFrame(space.unscale(truth), columns=list(names))
    known["obsid"] = 1000 + np.arange(N_STAR)
    known.to_csv(folder / "truth.csv", index=False)
    validate_files(out, folder / "truth.csv", folder / "check")
    metrics = json.loads((folder / "check" / "metrics.json").read_text())
    assert (folder / "check" / "recovery.png").is_file()
    return read_table(out), known, metrics


def test_a_fifth_label_is_added_in_one_place(tmp_path, carbon, write_stars):
    names = ("teff", "logg", "mh", "alpha_m", "c_o")
    table, truth, metrics = run_chain(tmp_path, names, write_stars, at_bound="c_o")
    rows = table["obsid"].to_numpy() - 1000
    difference = (table["C_O"] - truth["c_o"].to_numpy()[rows])[rows > 0]
    assert np.std(difference) < 0.1  # of a range of 1
    assert table["e_C_O"].between(0, 0.2).all()
    assert set(metrics["labels"]) == {*names, "rv"} - {"rv"}
    assert abs(metrics["labels"]["c_o"]["bias"]) < 0.05
    # Beyond its bound: flagged, and not good.
    at_bound = int(QualityFlag.LABEL_AT_BOUND)
    assert ((table["flags"] & at_bound) > 0)[rows == 0].all()
    assert ((table["flags"] & at_bound) > 0)[rows > 0].mean() < 0.1
    assert (table["good"] == ((table["flags"] & int(HARMFUL_FLAGS)) == 0)).all()
    names_in_order = list(table.columns)
    assert names_in_order.index("prior_alpha_M") + 1 == names_in_order.index("C_O")
    assert "corr_alpha_M_C_O" in names_in_order
    header = fits.getheader(tmp_path / "catalogue.fits", 1)
    number = 1 + names_in_order.index("C_O")
    assert header[f"TUCD{number}"] == "phys.abund"
    page = (tmp_path / "check" / "report.html").read_text()
    assert "[C/O] (dex)" in page


@pytest.mark.slow
def test_a_grid_without_alpha_is_as_good_as_any(tmp_path, write_stars):
    names = ("teff", "logg", "mh")
    table, _, metrics = run_chain(tmp_path, names, write_stars)
    assert "alpha_M" not in table
    assert set(metrics["labels"]) == set(names)
    assert abs(metrics["labels"]["mh"]["bias"]) < 0.15
    assert not (table["flags"] & int(QualityFlag.ALPHA_AT_BOUND)).any()
    # These stars have lines where the model has them, and no band of an M dwarf.
    harmful = int(HARMFUL_FLAGS & ~QualityFlag.NOT_M_DWARF)
    assert ((table["flags"] & harmful) == 0).mean() > 0.8
    joined = join_gaia(table, pd.DataFrame({"ra": table["RA"], "dec": table["Dec"], "ruwe": 1.1}))
    assert (joined["RUWE"] == 1.1).all()


def test_tables_of_different_labels_make_no_grid(tmp_path):
    for name, names in (("a", ("teff", "mh")), ("b", ("teff", "mh", "vsini"))):
        space = LabelSpace(names, ("",) * len(names), (0.0,) * len(names), (1.0,) * len(names))
        labels = np.random.default_rng(0).random((3, len(names)))
        flux = np.ones((3, PIXELS.n_pix), np.float32)
        write_grid(ModelGrid(labels, space, flux, PIXELS, 1800.0), tmp_path / f"{name}.parquet")
    inputs = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    made = make_grid(inputs, tmp_path / "grid.parquet", pixels=PIXELS, processes=1)
    assert (made["used"], made["rejected"]) == (1, 1)
    assert "vsini" in (tmp_path / "grid_rejects.csv").read_text()
