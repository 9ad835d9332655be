"""``jaxmdwarf train-emulator``: options arrive, results and exit codes are right."""

import json

import numpy as np
import pytest

from jaxmdwarf.cli import main
from jaxmdwarf.io.grids.table import ModelGrid, write_grid
from jaxmdwarf.io.models import load_model
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.wavelengths import PixelGrid


@pytest.fixture
def grid_path(tmp_path):
    space, pixels = LabelSpace.mdwarf(), PixelGrid.linear(7000.0, 7199.0, 1.0)
    labels = space.unscale(np.random.default_rng(0).uniform(-0.5, 0.5, (40, 4)))
    shape = 1.0 + 0.3 * np.sin(pixels.wave_aa / 7.0) * (labels[:, 2:3] + 3.0) / 4.0
    grid = ModelGrid(labels, space, shape.astype(np.float32), pixels, 1800.0)
    write_grid(grid, tmp_path / "grid.parquet")
    return str(tmp_path / "grid.parquet")


def test_it_trains_what_was_asked_for_and_says_so_in_json(tmp_path, grid_path, capsys):
    out = str(tmp_path / "model")
    options = ["--hidden", "16", "12", "--rank", "3", "--steps", "30", "--sigma", "40", "--json"]
    assert main(["train-emulator", grid_path, "--out", out, *options]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["spectra"], summary["steps"], summary["trained_on_simulation"]) == (
        40,
        30,
        False,
    )
    emulator = load_model(out)
    assert emulator.network.hidden == (16, 12)
    assert emulator.basis.shape[0] == 3
    assert emulator.preprocessing.sigma_aa == 40.0


def test_rank_zero_is_the_plain_payne(tmp_path, grid_path):
    out = str(tmp_path / "model")
    options = ["--hidden", "16", "--rank", "0", "--steps", "5", "--json"]
    assert main(["train-emulator", grid_path, "--out", out, *options]) == 0
    assert load_model(out).network.n_out is None


@pytest.mark.parametrize(
    "options",
    [["--rank", "-1"], ["--steps", "0"], ["--hidden", "0"]],
    ids=" ".join,
)
def test_bad_usage_is_exit_code_2(tmp_path, grid_path, options, capsys):
    assert main(["train-emulator", grid_path, "--out", str(tmp_path / "m"), *options]) == 2
    assert capsys.readouterr().err.startswith("jaxmdwarf: ")


def test_a_grid_that_is_not_there_is_bad_usage(tmp_path, capsys):
    missing = str(tmp_path / "none.parquet")
    assert main(["train-emulator", missing, "--out", str(tmp_path / "m")]) == 2
    assert "none.parquet" in capsys.readouterr().err
