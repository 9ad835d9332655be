import dataclasses

import numpy as np
import pytest

from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.simulate.instrument import NATIVE_GRID
from jaxmdwarf.simulate.population import PopulationConfig
from jaxmdwarf.simulate.survey import (
    SurveyConfig,
    effective_resolution,
    paper_grid_labels,
    sample_grid_labels,
    simulate_survey,
    theory_grid,
)
from jaxmdwarf.wavelengths import PAPER_GRID, PixelGrid

WAVE_AA = np.exp(np.arange(np.log(5850.0), np.log(9150.0), 2.7e-5))


def fake_flux(labels: np.ndarray) -> np.ndarray:
    """A black body with a comb of lines: a stand-in for the synthesis."""
    teff = np.asarray(labels)[:, :1]
    planck = 1.1910e27 * np.pi / WAVE_AA**5 / np.expm1(1.4388e8 / (WAVE_AA * teff))
    return (planck * (1 - 0.3 * np.sin(np.log(WAVE_AA) * 1500.0) ** 8)).astype(np.float32)


@pytest.fixture(scope="module")
def observed():
    survey = simulate_survey(SurveyConfig(n_spectra=1500, seed=3))
    columns = {
        name: np.full(1500, np.nan) for name in ("snr_r", "snr_i", "true_snr_r", "true_snr_i")
    }
    order = []
    for batch in survey.batches(fake_flux, WAVE_AA):
        order.append(batch.rows)
        for name, values in columns.items():
            values[batch.rows] = getattr(batch, name)
    return survey, columns, np.concatenate(order)


def test_every_spectrum_is_made_once_and_in_order(observed):
    survey, _, order = observed
    np.testing.assert_array_equal(order, np.arange(survey.n_spectra))


def test_the_header_signal_to_noise_is_the_true_one_times_the_stated_error(observed):
    survey, columns, _ = observed
    good = ~survey.population.visits["failed"] & (columns["true_snr_r"] > 10)
    ratio = columns["snr_r"][good] / columns["true_snr_r"][good]
    # The full gap states inverse variances 1.3 times too large.
    assert np.median(ratio) == pytest.approx(np.sqrt(1.3), rel=0.03)


def test_signal_to_noise_falls_with_magnitude_and_most_of_it_is_low(observed):
    survey, columns, _ = observed
    truth = survey.truth()
    magnitude = survey.population.stars["g_mag"][survey.population.visits["star"]]
    good = np.isfinite(columns["true_snr_r"]) & ~truth["failed"] & (truth["kind"] == "mdwarf")
    snr = columns["true_snr_r"][good]
    faint, bright = magnitude[good] > 17, magnitude[good] < 13
    assert np.median(snr[bright]) > 5 * np.median(snr[faint])
    assert (columns["true_snr_i"][good] > snr).mean() > 0.9


def test_results_do_not_depend_on_the_batch_size():
    config = SurveyConfig(n_spectra=40, seed=8)
    whole = simulate_survey(config)
    pieces = simulate_survey(dataclasses.replace(config, stars_per_batch=7))
    flux = np.concatenate([batch.flux for batch in whole.batches(fake_flux, WAVE_AA)])
    small = np.concatenate([batch.flux for batch in pieces.batches(fake_flux, WAVE_AA)])
    np.testing.assert_allclose(small, flux, rtol=1e-3, atol=1e-3 * np.median(abs(flux)))


def test_failed_spectra_fail_visibly():
    population = PopulationConfig(failed_fraction=1.0)
    config = SurveyConfig(n_spectra=60, seed=2, population=population, gap=DomainGap.none())
    survey = simulate_survey(config)
    (batch,) = survey.batches(fake_flux, WAVE_AA)
    failure = survey.truth()["failure"]
    assert set(failure) == {"empty", "no_light", "bad_join"}
    empty = failure == "empty"
    assert (batch.ivar[empty] == 0).all()
    assert np.isnan(batch.snr_r[empty]).all()
    dark = failure == "no_light"
    assert abs(np.median(batch.snr_r[dark])) < 1
    assert np.isfinite(batch.flux).all()
    assert np.isnan(survey.header_redshifts()).all()


def test_identifiers_are_unique_and_files_are_named_as_lamost_names_them(observed):
    survey, _, _ = observed
    truth = survey.truth()
    assert np.unique(truth["obsid"]).size == survey.n_spectra
    assert np.unique(truth["file"]).size == survey.n_spectra
    assert truth["file"][0].startswith("spec-")
    assert "_sp" in truth["file"][0]


def test_the_survey_classes_are_roughly_right(observed):
    survey, _, _ = observed
    truth = survey.truth()
    dwarf = truth["kind"] == "mdwarf"
    given = np.array([int(name[2:]) for name in truth["subclass"][dwarf]])
    assert abs(np.mean(given - np.clip(truth["spt"][dwarf], 0, 9))) < 0.3
    assert all(name.startswith("gM") for name in truth["subclass"][truth["kind"] == "giant"])
    k_dwarf = truth["subclass"][truth["kind"] == "kdwarf"]
    assert {"K5", "K7"} & set(k_dwarf)


def test_header_velocities_have_the_survey_pipelines_errors(observed):
    survey, _, _ = observed
    truth = survey.truth()
    good = ~truth["failed"]
    error = truth["header_z"][good] * 299792.458 - truth["rv_kms"][good]
    assert error.mean() == pytest.approx(-5, abs=1.5)
    assert error.std() == pytest.approx(11, abs=1.5)


def test_reference_labels_scatter_about_the_truth(observed):
    survey, _, _ = observed
    table, stars = survey.references(), survey.population.stars
    star = np.searchsorted(stars["source_id"], table["source_id"])
    assert 30 < star.size < 200
    assert (stars["kind"][star] == "mdwarf").all()
    assert np.std(table["teff"] - stars["teff"][star]) == pytest.approx(60, rel=0.3)
    assert np.std(table["mh"] - stars["mh"][star]) == pytest.approx(0.08, rel=0.3)


def test_gaia_tells_no_truth(observed):
    survey, _, _ = observed
    secret = {"teff", "mh", "distance_pc", "rv_kms", "is_binary", "kind", "pmra_true"}
    assert not secret & set(survey.gaia())


def test_gaia_has_velocities_of_bright_stars_with_errors_that_hold(observed):
    survey, _, _ = observed
    table, stars = survey.gaia(), survey.population.stars
    listed = np.isfinite(table["radial_velocity"])
    np.testing.assert_array_equal(listed, (table["rp_mag"] < 14) & (stars["teff"] > 3100))
    np.testing.assert_array_equal(listed, table["rv_nb_transits"] > 0)
    assert 0.1 < listed.mean() < 0.4
    error = table["radial_velocity_error"][listed]
    pulls = (table["radial_velocity"] - stars["rv_kms"])[listed] / error
    assert np.std(pulls) == pytest.approx(1.0, abs=5 / np.sqrt(2 * listed.sum()))
    assert np.mean(pulls) == pytest.approx(0.0, abs=5 / np.sqrt(listed.sum()))
    # Medians of the third data release at two magnitudes.
    order = np.argsort(table["rp_mag"][listed])
    at = np.interp([12.0, 14.0], table["rp_mag"][listed][order], error[order])
    np.testing.assert_allclose(at, [1.3, 6.4], rtol=0.1)


def test_grid_labels_fill_the_space_and_follow_the_alpha_trend():
    labels = sample_grid_labels(1152, seed=1)
    space = LabelSpace.mdwarf()
    assert space.contains(labels).all()
    for k in range(3):
        edges = np.linspace(space.lower[k], space.upper[k], 9)
        counts = np.histogram(labels[:, k], edges)[0]
        assert counts.min() > 0.8 * 1152 / 8
    trend = np.clip(-0.4 * labels[:, 2], 0, 0.4)
    assert abs(labels[:, 3] - trend).max() <= 0.25 + 1e-9
    np.testing.assert_array_equal(labels, sample_grid_labels(1152, seed=1))


def test_the_paper_grid_has_the_papers_nodes():
    labels = paper_grid_labels()
    assert labels.shape == (1152, 4)
    np.testing.assert_allclose(labels.min(axis=0), [2500, 4.5, -3.0, -0.2])
    np.testing.assert_allclose(labels.max(axis=0), [4000, 5.5, 0.5, 0.6])
    half = labels[labels[:, 2] == -0.5]
    np.testing.assert_allclose(np.unique(half[:, 3]), [0.0, 0.2, 0.4], atol=1e-12)


def test_the_theory_grid_is_what_an_ideal_survey_shows_after_resampling():
    labels = np.array([[3500.0, 4.8, 0.0, 0.0]])
    made = theory_grid(labels, fake_flux, WAVE_AA)
    assert made.grid == PixelGrid.linear(5940.0, 8960.0, 1.0)
    assert made.flux.shape == (1, PAPER_GRID.n_pix + 120)
    config = SurveyConfig(
        n_spectra=40,
        seed=5,
        gap=DomainGap.none(),
        population=PopulationConfig(
            failed_fraction=0.0, binary_fraction=0.0, k_dwarf_fraction=0.0, giant_fraction=0.0
        ),
    )
    survey = simulate_survey(config)
    stars = survey.population.stars
    stars["teff"][:] = 3500.0
    (batch,) = survey.batches(fake_flux, WAVE_AA)
    wave, rv_kms = made.grid.wave_aa, survey.population.visits["rv_kms"]
    inner = slice(100, -100)
    theory = made.flux[0, inner] / made.flux[0, inner].mean()
    native = NATIVE_GRID.edges_aa
    mean = np.zeros_like(theory)
    for row in range(40):
        # Flux-conserving resampling to the rest frame, as the pipeline does it.
        edges = native / (1 + rv_kms[row] / 299792.458)
        total = np.concatenate([[0.0], np.cumsum(batch.noiseless[row] * np.diff(edges))])
        seen = np.diff(np.interp(made.grid.edges_aa, edges, total))[inner]
        mean += seen / seen.mean() / 40
    finer = theory_grid(labels, fake_flux, WAVE_AA, native_pixels=False).flux[0, inner]
    matched = np.std(mean - theory)
    assert matched < 0.5 * np.std(mean - finer / finer.mean())
    assert wave[inner].size == theory.size


def test_native_pixels_lower_the_resolution_a_little():
    broadened = effective_resolution(PAPER_GRID, 1800.0)
    assert ((broadened > 1600) & (broadened < 1750)).all()
    np.testing.assert_allclose(effective_resolution(PAPER_GRID, 1800.0, native_pixels=False), 1800)


@pytest.mark.slow
def test_sixty_per_cent_of_the_spectra_have_a_signal_to_noise_below_twenty():
    from jaxmdwarf.simulate.synthesis import build_simulator, synthesize

    simulator = build_simulator()
    teff = np.arange(2600.0, 5001.0, 200.0)
    nodes = np.array([[value, 4.8 if value < 4400 else 4.6, -0.1, 0.05] for value in teff])
    library = np.log(synthesize(simulator, nodes))

    def interpolated(labels):
        x = np.clip((labels[:, 0] - teff[0]) / 200.0, 0, teff.size - 1.001)
        low, part = x.astype(int), (x % 1)[:, None]
        return np.exp(library[low] * (1 - part) + library[low + 1] * part).astype(np.float32)

    survey = simulate_survey(SurveyConfig(n_spectra=3000, seed=1, gap=DomainGap.none()))
    snr_r, snr_i = (
        np.concatenate(column)
        for column in zip(
            *(
                (batch.snr_r, batch.snr_i)
                for batch in survey.batches(interpolated, simulator.wave_aa)
            ),
            strict=True,
        )
    )
    good = np.isfinite(snr_r)
    assert np.mean(snr_r[good] < 20) == pytest.approx(0.62, abs=0.06)
    assert np.mean(snr_r[good] < 5) < 0.15
    # LAMOST's M0 to M3 dwarfs: 1.5 to 3.
    assert 1.4 < np.median(snr_i[good] / snr_r[good]) < 2.3


def test_nature_is_asked_for_stars_and_then_for_their_companions():
    population = PopulationConfig(binary_fraction=0.6)
    survey = simulate_survey(SurveyConfig(n_spectra=30, seed=8, population=population))
    stars, asked = survey.population.stars, []

    def answer(labels):
        asked.append(np.asarray(labels))
        return fake_flux(labels)

    next(iter(survey.batches(answer, WAVE_AA)))
    n, double = stars["teff"].size, stars["is_binary"]
    (labels,) = asked
    assert len(labels) == n + double.sum() > n
    names = ("teff", "logg", "mh", "alpha_m")
    own = np.stack([stars[name] for name in names], axis=1)
    np.testing.assert_array_equal(labels[:n], own)
    fainter = np.stack([stars[name] for name in ("companion_teff", "companion_logg")], axis=1)
    np.testing.assert_array_equal(labels[n:], np.hstack([fainter, own[:, 2:]])[double])
    assert (labels[n:, 0] < own[double, 0]).all()
