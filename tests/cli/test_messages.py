"""What goes wrong is told in one line, and its remedy can be typed: the same for every command."""

import ast
import dataclasses
import importlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jaxmdwarf
from jaxmdwarf.cli import COMMANDS, main
from jaxmdwarf.cli.parsing import list_options
from jaxmdwarf.io.grids.table import ModelGrid, write_grid
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.wavelengths import PixelGrid

ERRORS = {"UsageError", "WorkFailed", "FormatError", "MismatchError", "RejectedInput"}


def options_of(name):
    """Options of a command."""
    module = importlib.import_module(f"jaxmdwarf.cli.{name.replace('-', '_')}")
    if not dataclasses.is_dataclass(getattr(module, "Command", None)) or name == "run":
        return set()
    return {option.name for option in list_options(module.Command)}


def find_options(text):
    """Options that a text names."""
    return {name.rstrip(".-") for name in re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*", text)}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with one of everything, to which the commands below refer."""
    monkeypatch.chdir(tmp_path)
    space = LabelSpace.mdwarf()
    labels = space.unscale(np.random.default_rng(0).uniform(-0.5, 0.5, (30, 4)))
    grid = PixelGrid.linear(7000.0, 7049.0, 1.0)
    flux = (1.0 + 0.1 * np.sin(grid.wave_aa) * labels[:, 2:3]).astype(np.float32)
    write_grid(ModelGrid(labels, space, flux, grid, 1800.0), tmp_path / "grid.parquet")
    pd.DataFrame({"obsid": [1, 2], "Teff": [3500.0, 3600.0], "e_Teff": 20.0}).to_csv(
        tmp_path / "catalogue.csv", index=False
    )
    pd.DataFrame({"obsid": [1, 2], "teff": [3510.0, 3620.0]}).to_csv("truth.csv", index=False)
    pd.DataFrame({"star": ["a"], "mass": [0.3]}).to_csv("useless.csv", index=False)
    Path("spectra").mkdir()
    Path("spectra/a.fits").write_text("no spectrum")
    Path("empty").mkdir()
    Path("file").write_text("")
    for folder in ("taken", "taken_too"):
        Path(folder).mkdir()
        Path(folder, "notes.txt").write_text("mine")
    Path("old.fits").write_text("an old result")
    return tmp_path


BAD_USAGE = {
    # What is asked for cannot be.
    "measure --out t.fits": r"no spectra were given.*after 'measure'",
    "fit --model m --out t.fits": r"no spectra were given.*after 'fit'",
    "clean --out good.txt": r"no spectra were given.*after 'clean'",
    "grid --out g.parquet": r"no model files were given.*after 'grid'",
    "measure spectra --out t.doc": r"extension of .t\.doc. names no table format.*\.fits",
    "measure spectra --out t": r"names no table format",
    "measure spectra --out t.fits --processes 0": r"--processes",
    "fit spectra --model m --out t.fits --batch-size 0": r"batch_size 0.*--batch-size",
    "fit spectra --model m --out t.fits --chunk-size 0": r"chunk_size 0.*--chunk-size",
    "fit spectra --model m --out t.fits --fix logg": r"--fix 'logg' names no number",
    "fit spectra --model m --out t.fits --fix logg=4.8 logg=5": r"--fix gives logg two values",
    "fit spectra --model m --out t.fits --fix logg=nan": r"--fix 'logg=nan' is no finite number",
    "fit spectra --model m --out t.fits --poly-order 99": r"poly_order 99 is not within 0 and 10",
    "fit spectra --model m --out t.fits --solver lmm": r"solver 'lmm' is unknown.*lbfgs",
    "fit spectra --model m --out t.fits --window-aa 8000 7000": r"window_aa.*lower end first",
    "clean spectra --out good.txt --cleaning.n-clusters 1": r"at least 2 clusters",
    "clean spectra --out good.txt --decisions none.json": r"none\.json cannot be read",
    "clean spectra --out good.txt --decisions d --cuts.max-ruwe 1": r"--decisions decides alone",
    "grid spectra --out g.fits": r"g\.fits is not named like one.*\.parquet",
    "grid spectra --out g.parquet --resolution 0": r"--resolution",
    "grid spectra --out g.parquet --start-aa 9000": r"--start-aa",
    "grid spectra --out g.parquet --resolution 900 --native-resolution 500": r"--resolution",
    "simulate --out s --n 0": r"--n",
    "simulate --out s --gap weather": r"cause 'weather' is unknown.*telluric",
    "simulate --out s --layouts sdss": r"layout.*lamost-coadd",
    "train-emulator grid.parquet --out m --rank -1": r"--rank",
    "train-emulator grid.parquet --out m --learning-rate 0": r"learning_rate.*--learning-rate",
    "train-transfer spectra --emulator m --out n --method magic": r"'magic' is unknown.*matched",
    "quickstart --out q --n 1": r"--n",
    "quickstart --out q --transfer magic": r"'magic' is unknown.*matched",
    # What is needed is not there, or is something else.
    "fit spectra --model none --out t.fits": r"no model directory none.*train-emulator",
    "fit spectra --model empty --out t.fits": r"holds no model\.json.*train-emulator",
    "fit spectra --model file --out t.fits": r"file.*train-emulator",
    "train-emulator none.parquet --out m": r"no grid table none\.parquet.*check the path",
    "train-emulator truth.csv --out m": r"truth\.csv.*jaxmdwarf grid",
    "train-transfer spectra --emulator none --out m": r"no model directory none",
    "validate none.csv --reference truth.csv --out v": r"no table none\.csv",
    "validate catalogue.csv --reference none.csv --out v": r"no table none\.csv",
    "validate catalogue.csv --reference d.json --out v": r"there is no table d\.json",
    "validate catalogue.csv --reference file --out v": r"in one of \.fits \S.*\.gz. or not\.$",
    "validate catalogue.csv --reference useless.csv --out v": r"share none of.*--columns",
    "validate catalogue.csv --reference truth.csv --out v --columns teff": r"teff=TEFF_K",
    "validate catalogue.csv --reference truth.csv --out v --columns teff=T": r"no column 'T'",
    "validate catalogue.csv --reference truth.csv --out v --snr-column S": r"no column 'S'",
    # What would be replaced, or cannot be written.
    "clean spectra --out old.fits": r"old\.fits exists.*--overwrite",
    "measure spectra --out old.fits": r"old\.fits exists.*--overwrite",
    "fit spectra --model none --out old.fits": r"(old\.fits exists.*--overwrite|no model)",
    "grid spectra --out grid.parquet": r"grid\.parquet exists.*--overwrite",
    "train-emulator grid.parquet --out taken": r"taken exists and holds no model\.json",
    "simulate --out taken": r"taken exists",
    "validate catalogue.csv --reference truth.csv --out taken": r"taken exists",
    "quickstart --out taken": r"taken exists",
    "measure spectra --out file/t.fits": r"file is a file, not a folder",
    "train-emulator grid.parquet --out file/m": r"file is a file, not a folder",
    "simulate --out file/s": r"file is a file, not a folder",
    "validate catalogue.csv --reference truth.csv --out file/v": r"file is a file, not a folder",
    "quickstart --out file/q": r"file is a file, not a folder",
}


@pytest.mark.parametrize("line", BAD_USAGE)
def test_bad_usage_is_told_before_any_work(place, capsys, line):
    before = sorted(place.rglob("*"))
    code = main(line.split())
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.startswith("jaxmdwarf: ")
    assert error.count("\n") == 1
    assert re.search(BAD_USAGE[line], error), error
    assert "Remedy: " in error
    assert sorted(place.rglob("*")) == before
    # What the remedy names can be typed.
    named = find_options(error)
    assert named <= options_of(line.split()[0]), named


FAILED_WORK = {
    "measure spectra --out t.fits": r"none of 1 inputs was usable.*not a FITS file.*t_rejects\.csv",
    "measure nothing/*.fits --out t.fits": r"none of 1 inputs was usable.*no such file|matches",
    "measure empty --out t.fits": r"empty",
    "grid spectra --out g.parquet": r"0 of 1 inputs usable, a grid needs 2.*g_rejects\.csv",
}


@pytest.mark.parametrize("line", FAILED_WORK)
def test_failed_work_is_one_line_and_exit_1(place, capsys, line):
    assert main([*line.split(), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(FAILED_WORK[line], error), error


def test_every_option_that_a_message_names_is_one():
    known = {"--help", "--version"}.union(*(options_of(name) for name in COMMANDS))
    wrong = []
    for path in sorted(Path(jaxmdwarf.__file__).parent.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(getattr(call, "func", None), "id", "")
            if not isinstance(call, ast.Call) or name not in ERRORS:
                continue
            texts = (
                part.value
                for part in ast.walk(call)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            )
            for option in find_options(" ".join(texts)):
                if option not in known:
                    wrong.append(f"{path.name}:{call.lineno} names {option}")
    assert not wrong, wrong
