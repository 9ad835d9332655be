"""The model that comes with the package: there, whole, announced, and right on a real template."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

import jaxmdwarf as jm
from jaxmdwarf.errors import DefaultModelWarning
from jaxmdwarf.io.models import DEFAULT_MODEL, describe_model, load_model, read_default_notice

MOST_BYTES = 2 * 1024**2
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model():
    with pytest.warns(DefaultModelWarning, match="Mann et al"):
        return jm.load_model()


def test_it_is_what_its_directory_holds_and_says_what_it_is(model):
    # Loading has compared every byte with the hashes.
    assert load_model(DEFAULT_MODEL).label_space == model.label_space
    assert model.label_space.names == ("teff", "logg", "mh", "alpha_m")
    assert model.noise_model().labels is not None
    notice = read_default_notice()
    assert "\n" not in notice
    assert "M0-M5" in notice
    left_out = describe_model(DEFAULT_MODEL)["training"]["left_out"]["templates M0-M5"]
    assert f"Teff {left_out['teff']['rms']:.0f} K" in notice


def test_it_is_small_and_packed_with_the_package():
    files = [path for path in DEFAULT_MODEL.iterdir() if path.is_file()]
    assert sorted(path.name for path in files) == ["arrays.npz", "model.json"]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    project = REPOSITORY / "pyproject.toml"
    if not project.exists():
        pytest.skip("not run from the repository")
    patterns = tomllib.loads(project.read_text())["tool"]["setuptools"]["package-data"]
    package = Path(jm.__file__).parent
    packed = {path for pattern in patterns["jaxmdwarf"] for path in package.glob(pattern)}
    assert packed >= set(files)


def test_a_template_gets_its_labels_within_stated_errors(model, real_data):
    archive = np.load(real_data / "pyhammer_KM_templates_5900_9000_vac.npz")
    flux = archive["M2_+0.0_Dwarf|flux"]
    wave = archive["wave_vac"]
    # Every eighth pixel, for the template is sampled ten times as finely as its spectra were.
    chosen = slice(None, None, 8)
    fits = jm.fit((wave[chosen], flux[chosen], (50 / flux[chosen]) ** 2), model)
    row = fits.to_table()[0]
    # By its bands an M1.3 of Mann et al. (2015), 3,700 K; of the bin about [Fe/H] = 0.
    assert abs(row["Teff"] - 3700.0) < 2 * np.hypot(row["e_Teff"], 35.0)
    assert abs(row["M_H"] - 0.0) < 2 * np.hypot(row["e_M_H"], 0.16)
    assert 20.0 < row["e_Teff"] < 120.0
    assert 0.05 < row["e_M_H"] < 0.4
    assert abs(row["RV"]) < 25.0
