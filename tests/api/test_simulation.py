"""Simulated surveys from the front door: the same in memory and as files, truth row by row."""

import numpy as np
import pytest

import jaxmdwarf as jm
from jaxmdwarf.api import simulation as front
from jaxmdwarf.api.simulation import load_survey
from jaxmdwarf.errors import UsageError
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.workflows import simulation as workflow

WAVE_AA = np.exp(np.arange(np.log(5850.0), np.log(9150.0), 4.5e-5))


def fake_flux(labels):
    teff = np.asarray(labels)[:, :1]
    planck = 1.1910e27 * np.pi / WAVE_AA**5 / np.expm1(1.4388e8 / (WAVE_AA * teff))
    return (planck * (1 - 0.3 * np.sin(np.log(WAVE_AA) * 1500.0) ** 8)).astype(np.float32)


@pytest.fixture(scope="module")
def surveys(tmp_path_factory):
    """One survey in memory and as files, with a toy in place of the simulated physics."""
    with pytest.MonkeyPatch.context() as patch:
        source = workflow.FluxSource(WAVE_AA, fake_flux)
        for module in (front, workflow):
            patch.setattr(module, "nature_source", lambda gap, *, seed: source)
        out = tmp_path_factory.mktemp("survey") / "files"
        options = {"seed": 4, "gap": "none", "n_grid": 8}
        yield jm.simulate(60, **options), jm.simulate(60, **options, out=out)


def test_files_hold_the_spectra_that_are_in_memory(surveys):
    memory, files = surveys
    by_name = {one.meta.obsid: one for one in files.spectra}
    assert len(memory.spectra) == len(files.spectra) > 40
    for spectrum in memory.spectra:
        read = by_name[spectrum.meta.obsid]
        assert np.allclose(read.wave_aa, spectrum.wave_aa, rtol=1e-7)
        assert np.array_equal(read.flux[read.ivar > 0], spectrum.flux[spectrum.ivar > 0])
        assert np.allclose(read.ivar, spectrum.ivar, rtol=1e-5)
        assert read.meta.subclass == spectrum.meta.subclass
        assert read.meta.z == pytest.approx(spectrum.meta.z, abs=1e-6, nan_ok=True)
    assert np.array_equal(memory.grid.flux, files.grid.flux)


def test_truth_is_row_by_row_that_of_the_spectra(surveys):
    for survey in surveys:
        assert len(survey.truth) == len(survey.spectra)
        obsid = [int(one.meta.obsid) for one in survey.spectra]
        assert survey.truth["obsid"].tolist() == obsid
        assert len(survey.spectra) + len(survey.spectra.rejects) == len(survey) == 60
        assert {"teff", "rv_kms", "snr_r"} <= set(survey.truth.columns)
        assert {"teff", "e_teff", "ra_deg"} <= set(survey.reference.columns)


def test_a_survey_says_what_it_is_and_is_found_again(surveys):
    memory, files = surveys
    assert "60 spectra" in repr(memory)
    assert "a grid of 8 models" in repr(memory)
    again = load_survey(files.folder)
    assert again.truth["obsid"].tolist() == files.truth["obsid"].tolist()
    with pytest.raises(UsageError, match="no simulated survey"):
        load_survey(files.folder / "spectra")
    with pytest.raises(UsageError, match="exists"):
        jm.simulate(10, out=files.folder)


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        ("full", DomainGap.full()),
        ("none", DomainGap.none()),
        (0.5, DomainGap.full().scaled(0.5)),
        ("telluric", DomainGap.only("telluric_residuals")),
        ({"damping": 1.0}, DomainGap.only("damping")),
        ({}, DomainGap.none()),
        (DomainGap.only("noise"), DomainGap.only("noise")),
    ],
)
def test_gaps_are_given_in_words_numbers_and_objects(gap, expected):
    assert front._parse_gap(gap) == expected


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"n": 0}, "from 1 on"),
        ({"n": 5, "seed": -1}, "from 0 on"),
        ({"n": 5, "gap": "tellurik"}, "telluric_residuals"),
        ({"n": 5, "gap": 9.0}, "3 at most"),
    ],
)
def test_what_cannot_be_simulated_is_told(options, remedy):
    with pytest.raises(UsageError) as caught:
        jm.simulate(**options)
    assert remedy in caught.value.remedy
