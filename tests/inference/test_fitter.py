"""Raw spectra to labels in one call, and all that can be asked of the answer."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.inference.config import FitConfig
from jaxmdwarf.inference.explore.bounds import cramer_rao
from jaxmdwarf.inference.fitter import FAR_KMS, Fitter
from jaxmdwarf.inference.schedule import fit
from jaxmdwarf.models.base import ForwardModel, predict_compiled
from jaxmdwarf.models.layered import LayeredModel
from jaxmdwarf.models.population import TrainingPopulation
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.models.priors import LabelPrior, RelationPrior
from jaxmdwarf.preprocess.continuum import normalise_model
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import RawSpectrum, SpectrumMeta
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS, PixelGrid

GRID = PixelGrid.linear(6000.0, 6699.0, 1.0)
WINDOW = (6040.0, 6660.0)
N_STAR, SNR = 24, 120.0
KNOWN = (
    LabelPrior("mh", 0.0, 0.3),
    RelationPrior("logg", ("teff",), ((0,),), (5.0,), 0.5, (3500.0,), (500.0,)),
    RelationPrior("teff", ("age",), ((0,),), (3500.0,), 50.0, (5.0,), (5.0,), key="cooling"),
)


class Normalised(LayeredModel):
    """Another model's flux over its pseudo-continuum, as an emulator learns it."""

    base: ForwardModel
    population: TrainingPopulation | None = None

    @property
    def model_error(self):
        return self.base.model_error

    @property
    def preprocessing(self):
        return Preprocessing(sigma_aa=30.0, masks_aa=((6270.0, 6330.0),))

    def priors(self):
        return KNOWN

    def predict_scaled(self, scaled, context=None):
        return self.predict_scaled_batch(scaled[None])[0]

    def predict_scaled_batch(self, scaled, context=None):
        flux = self.base.predict_scaled_batch(scaled)
        outside = (self.grid.wave_aa > 6270.0) & (self.grid.wave_aa < 6330.0)
        return normalise_model(flux, self.grid, sigma_aa=30.0, window=outside)


@pytest.fixture(scope="module")
def model(make_model):
    return Normalised(make_model(GRID, n_band=20))


@pytest.fixture(scope="module")
def stars(make_model):
    """Raw spectra on pixels of their own, moving at up to 150 km/s, and what they are."""
    nature = make_model(GRID, n_band=20)
    rng = np.random.default_rng(5)
    scaled = rng.uniform(-0.3, 0.3, (N_STAR, 4)).astype(np.float32)
    speeds = rng.uniform(-150, 150, N_STAR)
    flux = np.asarray(predict_compiled(nature, jax.device_put(scaled)), float)
    raws = []
    for row, speed in zip(flux, speeds, strict=True):
        wave = np.arange(6001.0, 6700.0, 0.7)
        at = wave / (1 + speed / SPEED_OF_LIGHT_KMS)
        seen = np.interp(at, nature.grid.wave_aa, row) * (1 + 0.1 * np.sin(wave / 400.0))
        sigma = 1 / SNR
        raws.append(
            RawSpectrum(
                wave,
                seen + sigma * rng.normal(size=wave.size),
                np.full(wave.size, sigma**-2),
                SpectrumMeta(z=speed / SPEED_OF_LIGHT_KMS),
            )
        )
    return raws, np.asarray(nature.label_space.unscale(scaled)), speeds


@pytest.fixture(scope="module")
def config():
    return FitConfig(window_aa=WINDOW, priors=("none",))


@pytest.fixture(scope="module")
def fitter(model, config):
    return Fitter(model, config)


@pytest.fixture(scope="module")
def keeper(model, config):
    """Keeps all pixels."""
    return Fitter(model, replace(config, clip_sigma=0.0))


@pytest.fixture(scope="module")
def programs():
    """Names of the programs that the fit of `fitted` had to compile."""
    return []


@pytest.fixture(scope="module")
def fitted(fitter, stars, programs):
    fitting = [True]

    def listen(event, seconds, fun_name="", **_):
        if fitting and "backend_compile" in event:
            programs.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    found = fitter.fit(stars[0], keep_spectra=True)
    fitting.clear()
    return found


@pytest.mark.parametrize(("limit", "told"), [(1e-3, True), (1e6, False)])
def test_stars_unlike_those_of_the_training_are_told_and_fitted_alike(
    model, config, fitted, stars, limit, told
):
    raws, labels, _ = stars
    flat = np.zeros((2, 4), np.float32)
    population = TrainingPopulation(
        directions=0.01 * np.sin(model.grid.wave_aa / np.array([[5.0], [9.0]])).astype(np.float32),
        chi2=flat,
        pattern=flat,
        reach=np.array([[0.0, -0.5], [3.0, 0.5]], np.float32),
        labels=np.asarray(model.label_space.scale(labels), np.float32),
        width=np.full(4, 0.1, np.float32),
        limits=np.full(3, limit, np.float32),
    )
    assert fitted.outlier_score is None
    again = Fitter(model.with_population(population), config).fit(raws)
    np.testing.assert_array_equal(again.result.labels, fitted.result.labels)
    assert np.isfinite(again.outlier_score).all()
    assert ((again.flags & int(QualityFlag.OUT_OF_DOMAIN)) > 0).tolist() == [told] * N_STAR
    assert not (fitted.flags & int(QualityFlag.OUT_OF_DOMAIN)).any()


def test_labels_and_velocities_come_out_right(fitted, stars):
    _, labels, speeds = stars
    result = fitted.result
    assert len(fitted) == N_STAR
    assert fitted.label_names == ("teff", "logg", "mh", "alpha_m")
    assert result.converged.all()
    pulls = np.abs(result.labels - labels) / result.errors
    assert np.median(pulls) < 1.5
    assert np.median(np.abs(result.rv_kms - speeds)) < 3.0


def test_stars_far_from_their_first_velocities_are_fitted_again_where_they_are(
    model, config, stars, monkeypatch
):
    raws, labels, speeds = stars
    astray = speeds + np.where(np.arange(N_STAR) % 2, 60.0, -60.0)
    fitter = Fitter(model, config)
    first = astray.copy(), labels, np.zeros(N_STAR, np.int32)
    monkeypatch.setattr(fitter, "_first_velocities", lambda *_: first)
    found = fitter.fit(raws)
    assert (np.abs(found.result.residual_kms) < FAR_KMS).all()
    assert np.abs(found.frame_kms - speeds).max() < FAR_KMS
    assert np.median(np.abs(found.result.rv_kms - speeds)) < 3


def test_velocities_of_headers_stand_in_where_none_is_found_and_there_is_one(fitter, stars):
    raws, _, speeds = stars
    unknown = [
        # All that is left lies in what the model masks.
        replace(
            raw,
            ivar=np.where((raw.wave_aa > 6280) & (raw.wave_aa < 6320), raw.ivar, 0),
            meta=replace(raw.meta, z=z),
        )
        for raw, z in zip(raws[:2], (raws[0].meta.z, np.nan), strict=True)
    ]
    found = fitter.fit([*unknown, *raws[2:]])
    fell_back = (found.flags & int(QualityFlag.FALLBACK_VELOCITY)) > 0
    assert fell_back.tolist() == [True] + [False] * (N_STAR - 1)
    assert found.frame_kms[0] == pytest.approx(speeds[0])
    assert found.frame_kms[1] == 0


def test_the_problem_of_a_star_is_the_one_that_was_solved(fitted):
    some = fitted.problem([3, 1])
    np.testing.assert_allclose(some.frame_kms, fitted.frame_kms[[3, 1]], rtol=1e-6)
    again = fit(some)
    found = fitted.result.take([3, 1])
    assert (np.abs(again.labels - found.labels) / found.errors).max() < 0.02
    np.testing.assert_allclose(again.rv_kms, found.rv_kms, atol=0.05)
    np.testing.assert_allclose(again.errors, found.errors, rtol=0.01)
    assert fitted.problem().n_spec == N_STAR
    assert fitted.problem(5).n_spec == 1
    # Errors know of the noise that the pseudo-continuum took out; those of the weights do not.
    ratio = found.errors / cramer_rao(some, found).labels
    assert ((ratio > 0.8) & (ratio < 1)).all()


def test_model_flux_is_that_of_the_labels_in_the_frame_of_the_data(fitted):
    seen = fitted.spectra()
    n_used = seen.used.sum(axis=1)
    np.testing.assert_array_equal(n_used, fitted.result.n_pix)
    inside = (seen.wave_aa >= WINDOW[0]) & (seen.wave_aa <= WINDOW[1])
    assert not seen.used[:, ~inside].any()
    assert not seen.used[:, (seen.wave_aa > 6271) & (seen.wave_aa < 6329)].any()
    assert (seen.ivar[seen.used] > 0).all()
    pulls = np.where(seen.used, (seen.flux - seen.model_flux) / seen.sigma, 0)
    np.testing.assert_allclose(np.sum(pulls**2, axis=1), fitted.result.chi2, rtol=1e-3)


def test_chosen_rows_keep_what_was_fitted(fitted):
    some = fitted.take(np.array([5, 2]))
    kept, whole = some.problem(), fitted.problem()
    np.testing.assert_array_equal(kept.batch.flux, np.asarray(whole.batch.flux)[[5, 2]])
    np.testing.assert_array_equal(some.result.labels, fitted.result.labels[[5, 2]])
    np.testing.assert_array_equal(some.n_clipped, fitted.n_clipped[[5, 2]])
    assert fitted.take(np.array([], int)).problems is None


def test_a_polynomial_is_part_of_the_model_flux_and_a_prior_of_chi_square(model, stars):
    config = FitConfig(window_aa=WINDOW, priors=("sequence",), velocity="header", poly_order=1)
    fitter = Fitter(model, config)
    assert fitter.warnings == ()
    fitted = fitter.fit(stars[0][:4], keep_spectra=True)
    assert fitted.problem().priors == KNOWN[1:2]
    seen = fitted.spectra()
    pulls = np.where(seen.used, (seen.flux - seen.model_flux) / seen.sigma, 0)
    from_prior = ((fitted.result.labels[:, 1] - 5.0) / 0.5) ** 2
    assert from_prior.max() > 0.1
    chi2 = np.sum(pulls**2, axis=1) + from_prior
    np.testing.assert_allclose(chi2, fitted.result.chi2, rtol=1e-3)


def damage(raws, n_pixel, sigmas, rows):
    """Some stars with so many pixels off by so many sigma; the same stars otherwise."""
    rng = np.random.default_rng(8)
    changed = list(raws)
    for row in rows:
        raw = raws[row]
        at = rng.choice(np.arange(80, 940), n_pixel, replace=False)
        flux = raw.flux.copy()
        flux[at] += rng.choice([-1, 1], n_pixel) * sigmas / np.sqrt(raw.ivar[at])
        changed[row] = replace(raw, flux=flux)
    return changed


@pytest.mark.parametrize(("n_pixel", "sigmas"), [(10, 60.0), (3, 3e4)])
def test_outliers_move_no_labels_and_nobody_else(fitter, keeper, stars, fitted, n_pixel, sigmas):
    even = np.arange(0, N_STAR, 2)
    spoilt = damage(stars[0], n_pixel, sigmas, even)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: compiled.append(name) if "backend_compile" in name else None
    )
    found, kept = fitter.fit(spoilt), keeper.fit(spoilt)
    assert compiled == []
    away, otherwise = (
        np.abs(one.result.labels - fitted.result.labels) / fitted.result.errors
        for one in (found, kept)
    )
    # Steep bands and narrow pixels: a running mean without some of them is another mean.
    assert np.median(away[even].max(axis=1)) < 0.7
    assert away.max() < 2.5
    assert np.median(otherwise[even].max(axis=1)) > 3.0
    faster = np.abs(found.result.rv_kms - fitted.result.rv_kms) / fitted.result.e_rv
    assert np.median(faster[even]) < 0.3
    assert faster.max() < 2.5
    # A pixel of the file is more than one of the grid: neighbours may go with an outlier.
    assert ((found.n_clipped[even] >= n_pixel) & (found.n_clipped[even] <= 4 * n_pixel)).all()
    assert ((found.flags[even] & int(QualityFlag.OUTLIERS_CLIPPED)) > 0).all()
    assert not found.n_clipped[1::2].any()
    assert not kept.n_clipped.any()
    np.testing.assert_array_equal(found.flags[1::2], fitted.flags[1::2])
    for column, before in zip(found.result, fitted.result, strict=True):
        np.testing.assert_array_equal(column[1::2], before[1::2])


def test_outliers_are_those_of_the_last_frame(fitter, stars, fitted, monkeypatch):
    """A third of the stars are fitted in another frame first: outliers lie elsewhere in it."""
    even = np.arange(0, N_STAR, 2)
    spoilt = damage(stars[0], 3, 100.0, even)
    at_once = fitter.fit(spoilt)
    limit = float(np.quantile(np.abs(fitted.result.residual_kms), 0.67))
    monkeypatch.setattr("jaxmdwarf.inference.fitter.FAR_KMS", limit)
    moved = fitter.fit(spoilt)
    assert (moved.frame_kms[1::2] != at_once.frame_kms[1::2]).sum() > 2
    assert not moved.n_clipped[1::2].any()
    assert (moved.n_clipped[even] >= 3).all()
    away = np.abs(moved.result.labels - at_once.result.labels) / at_once.result.errors
    assert away[even].max() < 1.0


def test_stars_that_outliers_held_elsewhere_are_followed_once_those_are_gone(
    fitter, stars, fitted, monkeypatch
):
    """Six pixels of 300 sigma hold velocities by up to 50 km/s; nobody is left far from a frame."""
    even = np.arange(0, N_STAR, 2)
    spoilt = damage(stars[0], 6, 300.0, even)
    far_kms = 9.0
    at_once = fitter.fit(spoilt)
    assert (np.abs(at_once.result.residual_kms[even]) > far_kms).sum() > 2
    monkeypatch.setattr("jaxmdwarf.inference.fitter.FAR_KMS", far_kms)
    found = fitter.fit(spoilt, keep_spectra=True)
    assert np.abs(found.result.residual_kms).max() < far_kms
    assert (found.n_clipped[even] >= 4).all()  # some are where pixels are masked
    faster = np.abs(found.result.rv_kms - fitted.result.rv_kms) / fitted.result.e_rv
    assert faster.max() < 2.5
    # What is kept is what was fitted: the last frame, without the outliers.
    seen = found.spectra()
    pulls = np.where(seen.used, (seen.flux - seen.model_flux) / seen.sigma, 0)
    np.testing.assert_allclose(np.sum(pulls**2, axis=1), found.result.chi2, rtol=1e-3)


def test_stars_are_fitted_again_in_parts_of_one_shape(fitter, stars, fitted, monkeypatch):
    even = np.arange(0, N_STAR, 2)
    parts = []

    def record(self, raws, rows, result, frame, fixed, n_row, schedule):
        parts.append((rows.tolist(), n_row))
        return fitted.problem().pad_to(32)

    monkeypatch.setattr(Fitter, "_refit", record)
    monkeypatch.setattr("jaxmdwarf.inference.fitter._REFIT_ROWS", 5)
    fitter.fit(damage(stars[0], 10, 60.0, even))
    first = parts[:3]
    assert [len(rows) for rows, _ in first] == [5, 5, 2]
    assert [row for rows, _ in first for row in rows] == even.tolist()
    assert {n_row for _, n_row in parts} == {5}


def test_what_was_clipped_is_not_in_the_problem(fitter, stars):
    spoilt = damage(stars[0], 10, 60.0, [0])
    found = fitter.fit(spoilt, keep_spectra=True)
    seen = found.spectra()
    assert found.result.n_pix[0] == seen.used[0].sum() < found.result.n_pix[1:].min()
    pulls = np.where(seen.used, (seen.flux - seen.model_flux) / seen.sigma, 0)
    np.testing.assert_allclose(np.sum(pulls**2, axis=1), found.result.chi2, rtol=1e-3)
    assert found.take(np.array([0, 3])).n_clipped.tolist() == [found.n_clipped[0], 0]


def test_velocities_unlike_those_of_headers_are_told(fitter, stars, fitted):
    away = np.linspace(-200.0, 200.0, N_STAR)
    away[5] = np.nan
    told = [
        replace(raw, meta=replace(raw.meta, z=raw.meta.z + kms / SPEED_OF_LIGHT_KMS))
        for raw, kms in zip(stars[0], away, strict=True)
    ]
    flag = int(QualityFlag.VELOCITY_UNLIKE_HEADER)
    assert not (fitted.flags & flag).any()
    found = fitter.fit(told)
    limit = np.maximum(50.0, 5 * found.result.e_rv)
    header = np.array([raw.meta.z for raw in told]) * SPEED_OF_LIGHT_KMS
    expected = np.abs(found.result.rv_kms - header) > limit
    assert 12 < expected.sum() < N_STAR - 4
    np.testing.assert_array_equal((found.flags & flag) > 0, expected)


def test_chi_squares_are_told_by_what_stars_of_that_snr_have(keeper, stars):
    """At S/N 120 stars have 1 + 1.2^2: five times that is 12."""
    rng = np.random.default_rng(4)
    noisy = [
        replace(raw, flux=raw.flux + factor * rng.normal(size=raw.flux.size) / np.sqrt(raw.ivar))
        for raw, factor in zip(stars[0], np.tile([2.6, 4.5], N_STAR // 2), strict=True)
    ]
    found = keeper.fit(noisy)
    high = (found.flags & int(QualityFlag.HIGH_CHI2)) > 0
    assert high.tolist() == [False, True] * (N_STAR // 2)
    assert np.min(found.result.chi2_red[::2]) > 5
    assert not (found.flags & int(QualityFlag.BAD_CHI2)).any()


def test_spectra_without_light_alone_are_no_end_of_a_run(fitter, stars):
    dark = [replace(raw, flux=np.zeros_like(raw.flux)) for raw in stars[0]]
    found = fitter.fit(dark)
    assert ((found.flags & int(QualityFlag.NO_GOOD_PIXELS)) > 0).all()
    assert np.isnan(found.result.labels).all()


def test_a_fit_is_few_programs_each_compiled_once(fitted, programs):
    """Each costs a process its tracing, and its first run some seconds, whatever the machine."""
    assert "jit(_fit_rows)" in programs
    assert len(set(programs)) == len(programs) <= 12, programs


def test_lists_of_other_lengths_compile_nothing(fitter, stars, fitted):
    """The programs of twenty-four spectra serve one and twenty-one."""
    raws, _, _ = stars
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: compiled.append(name) if "backend_compile" in name else None
    )
    few = {n: fitter.fit(raws[:n]) for n in (1, 21)}
    assert compiled == []
    for n, found in few.items():
        away = np.abs(found.result.labels - fitted.result.labels[:n]) / fitted.result.errors[:n]
        assert away.max() < 0.02
        np.testing.assert_array_equal(found.flags, fitted.flags[:n])


def test_lists_longer_than_a_chunk_are_divided(model, stars, fitted, config):
    parts = Fitter(model, FitConfig(window_aa=WINDOW, priors=("none",), chunk_size=10))
    divided = parts.fit(stars[0], keep_spectra=True, pad_to=32)
    assert len(divided) == N_STAR
    away = np.abs(divided.result.labels - fitted.result.labels) / fitted.result.errors
    assert away.max() < 0.02
    np.testing.assert_array_equal(divided.flags, fitted.flags)
    np.testing.assert_allclose(divided.problem(20).frame_kms, fitted.problem(20).frame_kms)


def test_labels_are_fixed_for_all_or_for_each(model, stars):
    raws, labels, _ = stars
    config = FitConfig(window_aa=WINDOW, priors=("none",), fixed={"alpha_m": 0.2})
    found = Fitter(model, config).fit(raws, fixed={"logg": labels[:, 1]})
    np.testing.assert_allclose(found.result.labels[:, 3], 0.2)
    np.testing.assert_allclose(found.result.labels[:, 1], labels[:, 1], rtol=1e-6)
    assert np.isnan(found.result.errors[:, [1, 3]]).all()
    assert np.isfinite(found.result.errors[:, [0, 2]]).all()


def test_priors_are_those_of_the_model_that_can_apply(model, stars):
    raws = stars[0][:6]
    whole = Fitter(model, FitConfig(window_aa=WINDOW))
    (warning,) = whole.warnings
    assert "'cooling' on teff was left out: no label age here." in warning
    found = whole.fit(raws, keep_spectra=True)
    assert found.warnings == whole.warnings
    assert found.problem().priors == KNOWN[:2]


def test_what_cannot_be_is_said_at_once(model, fitter, stars, make_model):
    raws = stars[0]
    with pytest.raises(UsageError, match="no spectrum was given"):
        fitter.fit([])
    with pytest.raises(UsageError, match="keep_spectra=True"):
        fitter.fit(raws[:3]).problem(0)
    with pytest.raises(MismatchError, match="one a spectrum"):
        fitter.fit(raws[:3], fixed={"logg": [4.8, 4.9]})
    for wrong, text in (
        ({"priors": ("sequense",)}, "no prior 'sequense'"),
        ({"fixed": {"mass": 0.3}}, "'mass' is unknown"),
        ({"fixed": {"teff": 9000.0}}, "outside the model"),
        ({"window_aa": (7000.0, 7100.0)}, "nothing of 7000-7100"),
        ({"domain": "synthetic"}, "transfers no spectra"),
    ):
        with pytest.raises(UsageError, match=text):
            Fitter(model, FitConfig(**wrong))
    for wrong, text in (
        ({"window_aa": (7000.0, 6000.0)}, "lower end first"),
        ({"chunk_size": 0}, "below 1"),
        ({"priors": (3.5,)}, "is no prior"),
        ({"clip_sigma": 2.5}, "noise for outliers"),
        ({"clip_sigma": float("nan")}, "noise for outliers"),
    ):
        with pytest.raises((UsageError, TypeError), match=text):
            FitConfig(**wrong)
    with pytest.raises(UsageError, match="not normalised"):
        Fitter(make_model(GRID))
