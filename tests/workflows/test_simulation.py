import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.atomic import move_folder
from jaxmdwarf.io.grids.table import read_grid
from jaxmdwarf.io.spectra.readers import read_spectrum
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.simulate.population import PopulationConfig
from jaxmdwarf.simulate.survey import SurveyConfig
from jaxmdwarf.workflows.simulation import FluxSource, make_survey, simulate_files

WAVE_AA = np.exp(np.arange(np.log(5850.0), np.log(9150.0), 2.7e-5))


def fake_flux(labels):
    teff = np.asarray(labels)[:, :1]
    planck = 1.1910e27 * np.pi / WAVE_AA**5 / np.expm1(1.4388e8 / (WAVE_AA * teff))
    return (planck * (1 - 0.3 * np.sin(np.log(WAVE_AA) * 1500.0) ** 8)).astype(np.float32)


SOURCE = FluxSource(WAVE_AA, fake_flux)
CONFIG = SurveyConfig(
    n_spectra=30, seed=4, population=PopulationConfig(failed_fraction=0.15), stars_per_batch=8
)


def simulate(folder, config=CONFIG, **options):
    return simulate_files(folder, config=config, nature=SOURCE, theory=SOURCE, **options)


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    return folder, simulate(folder, n_grid=12, csv=True)


def test_files_and_tables_belong_together(survey):
    folder, summary = survey
    truth = pd.read_parquet(folder / "truth.parquet")
    assert summary["spectra"] == len(truth) == 30
    assert sorted(truth["file"]) == sorted(path.name for path in (folder / "spectra").iterdir())
    gaia = pd.read_parquet(folder / "gaia.parquet")
    assert set(truth["source_id"]) == set(gaia["source_id"])
    assert len(gaia) == summary["stars"]
    for name in ("reference", "pairs"):
        assert (folder / f"{name}.parquet").exists()
    assert (folder / "truth.csv").exists()


def test_a_survey_in_memory_has_the_spectra_of_the_files(survey):
    folder, _ = survey
    made = make_survey(CONFIG, nature=SOURCE)
    truth = pd.DataFrame(made.tables["truth"])
    pd.testing.assert_frame_equal(truth, pd.read_parquet(folder / "truth.parquet"))
    assert len(made.spectra) + len(made.rejects) == 30
    for row, spectrum in zip(made.rows, made.spectra, strict=True):
        back = read_spectrum(folder / "spectra" / truth["file"][row])
        assert np.array_equal(back.ivar > 0, spectrum.ivar > 0)
        assert np.array_equal(back.flux[back.ivar > 0], spectrum.flux[back.ivar > 0])


def test_headers_repeat_what_the_truth_table_says(survey):
    folder, _ = survey
    truth = pd.read_parquet(folder / "truth.parquet")
    layouts = set()
    for row in truth.itertuples():
        if row.failure == "empty":
            continue
        back = read_spectrum(folder / "spectra" / row.file)
        layouts.add(back.meta.layout)
        assert back.meta.obsid == str(row.obsid)
        assert back.meta.ra_deg == pytest.approx(row.ra_deg, abs=1e-5)
        assert back.meta.snr_r == pytest.approx(row.snr_r, abs=0.006)
        assert back.meta.subclass == row.subclass
    assert layouts == {"lamost-coadd", "lamost-wavelength"}


def test_the_same_seed_gives_the_same_bytes(survey, tmp_path):
    folder, _ = survey
    simulate(tmp_path, n_grid=12, csv=True)

    def digests(root):
        return {
            str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }

    assert digests(folder) == digests(tmp_path)


def test_the_theory_grid_is_a_grid_table(survey):
    folder, _ = survey
    grid = read_grid(folder / "theory_grid.parquet")
    assert grid.kind == "simulated"
    assert grid.n_spec == 12
    assert grid.label_space.contains(grid.labels).all()


def test_the_recipe_tells_how_it_was_made(survey):
    folder, _ = survey
    recipe = json.loads((folder / "survey.json").read_text())
    assert recipe["simulated"] is True
    assert recipe["complete"] is True
    assert recipe["config"]["gap"]["telluric_residuals"] == 1.0
    assert recipe["gap_in_words"] == "full"


def test_a_survey_is_replaced_only_if_that_is_said_and_other_folders_never(survey, tmp_path):
    folder, _ = survey
    other = SurveyConfig(n_spectra=30, seed=5, gap=DomainGap.none())
    with pytest.raises(UsageError, match="exists"):
        simulate(folder, other)
    (tmp_path / "spectra").mkdir()
    (tmp_path / "spectra" / "mine.fits").write_text("data")
    with pytest.raises(UsageError, match="left alone"):
        simulate(tmp_path, overwrite=True)
    simulate(tmp_path / "two", overwrite=True)
    simulate(tmp_path / "two", other, overwrite=True)
    assert json.loads((tmp_path / "two" / "survey.json").read_text())["config"]["seed"] == 5


def test_a_stopped_simulation_goes_on_and_gives_the_same_bytes(survey, tmp_path):
    folder, summary = survey
    asked = []

    def failing(labels):
        asked.append(len(labels))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return fake_flux(labels)

    with pytest.raises(KeyboardInterrupt):
        simulate_files(tmp_path / "s", config=CONFIG, nature=FluxSource(WAVE_AA, failing))
    assert not (tmp_path / "s").exists()
    n_written = len(list((tmp_path / "s.partial" / "survey" / "spectra").iterdir()))
    assert 0 < n_written < CONFIG.n_spectra
    simulate_files(tmp_path / "s", config=CONFIG, nature=FluxSource(WAVE_AA, failing))
    # The batch that failed once, and those after it.
    assert len(asked) - 3 == -(-summary["stars"] // CONFIG.stars_per_batch) - 2
    for name in ("truth.parquet", "gaia.parquet"):
        assert (tmp_path / "s" / name).read_bytes() == (folder / name).read_bytes()
    for path in (folder / "spectra").iterdir():
        assert (tmp_path / "s" / "spectra" / path.name).read_bytes() == path.read_bytes()


def test_unknown_layouts_are_refused(tmp_path):
    with pytest.raises(UsageError, match="lamost-coadd"):
        simulate(tmp_path, layouts=("dr7",))


def test_a_survey_that_was_complete_when_it_was_stopped_is_not_replaced_by_an_empty_one(
    survey, tmp_path, monkeypatch
):
    def move_and_stop(folder, target):
        move_folder(folder, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jaxmdwarf.workflows.simulation.move_folder", move_and_stop)
        with pytest.raises(KeyboardInterrupt):
            simulate(tmp_path / "s")
    assert (tmp_path / "s.partial").is_dir()
    # As the quickstart does, which did not note that the step was done.
    simulate(tmp_path / "s", overwrite=True)
    names = {path.name for path in (survey[0] / "spectra").iterdir()}
    assert {path.name for path in (tmp_path / "s" / "spectra").iterdir()} == names
