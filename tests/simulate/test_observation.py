"""Mock observations: noise, velocities and companions come out as they were put in."""

import dataclasses

import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError
from jaxmdwarf.lsf import apply_lsf, lsf_weights
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.simulate.instrument import FLUX_UNIT, NATIVE_GRID, RESOLUTION
from jaxmdwarf.simulate.observation import observe
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS

WAVE = NATIVE_GRID.wave_aa


def test_without_a_gap_nature_is_theory_through_the_same_instrument(
    ideal, wave_aa, dilution, make_stars
):
    weights = lsf_weights(wave_aa, NATIVE_GRID, resolution=RESOLUTION)
    theory = apply_lsf(make_stars(6), weights) * (dilution / FLUX_UNIT)
    np.testing.assert_allclose(ideal.noiseless, theory, rtol=2e-4)
    # All make_stars are alike here: neither plate, fibre nor number may leave a trace.
    np.testing.assert_array_equal(ideal.noiseless, np.tile(ideal.noiseless[0], (6, 1)))
    assert (ideal.mask == 0).all()
    assert (ideal.ivar > 0).all()


def test_the_noise_is_gaussian_and_ivar_tells_it(ideal, wave_aa, make_stars, make_visits):
    n = 60
    seen = observe(wave_aa, make_stars(n), make_visits(n), gap=DomainGap.none(), seed=2)
    pull = (seen.flux - seen.noiseless) * np.sqrt(seen.ivar)
    assert pull.std() == pytest.approx(1.0, abs=0.01)
    assert abs(pull.mean()) < 0.01
    assert np.mean(abs(pull) > 3) == pytest.approx(0.0027, abs=0.001)


def test_night_sky_lines_raise_the_noise(wave_aa, dilution, make_stars, make_visits):
    n = 4
    faint = make_visits(n, dilution=np.full(n, 0.02 * dilution))
    seen = observe(wave_aa, make_stars(n), faint, gap=DomainGap.none(), seed=2)
    on_line = np.argmin(abs(WAVE - 8432.5))
    between = np.argmin(abs(WAVE - 8600.0))
    assert seen.sigma[0, on_line] > 1.4 * seen.sigma[0, between]


@pytest.mark.parametrize("rv_kms", [-300.0, 41.7, 250.0])
def test_a_line_moves_by_its_velocity(rv_kms, wave_aa, make_visits):
    flux = np.ones((1, wave_aa.size), dtype=np.float32) * 1e5
    flux += (1e6 * np.exp(-0.5 * ((wave_aa - 7777.0) / 0.3) ** 2)).astype(np.float32)
    visits = make_visits(1, rv_kms=np.array([rv_kms]))
    seen = observe(wave_aa, flux, visits, gap=DomainGap.none(), seed=1)
    line = seen.noiseless[0] - np.median(seen.noiseless[0])
    near = abs(WAVE - 7777.0) < 40
    # Pixels widen with wavelength: a centroid needs their widths.
    weight = line[near] * NATIVE_GRID.widths_aa[near]
    centroid = (weight * WAVE[near]).sum() / weight.sum()
    measured = (centroid / 7777.0 - 1) * SPEED_OF_LIGHT_KMS
    assert measured == pytest.approx(rv_kms, abs=1.0)


def test_batches_do_not_matter(wave_aa, make_stars, make_visits):
    n = 7
    gap = DomainGap.full()
    visits = make_visits(n, halpha_ew_aa=np.full(n, 2.0), helio_kms=np.linspace(-20, 20, n))
    whole = observe(wave_aa, make_stars(n), visits, gap=gap, seed=4)
    part = visits.take(np.array([2, 3, 5]))
    part = dataclasses.replace(part, star=np.arange(3))
    piece = observe(wave_aa, make_stars(3), part, gap=gap, seed=4)
    rows = [2, 3, 5]
    np.testing.assert_allclose(piece.flux, whole.flux[rows], rtol=2e-4, atol=1e-3)
    np.testing.assert_array_equal(piece.mask, whole.mask[rows])
    np.testing.assert_allclose(piece.ivar, whole.ivar[rows], rtol=2e-4)


def test_a_companion_adds_its_light_at_its_own_velocity(wave_aa, dilution, make_stars, make_visits):
    one = make_stars(1)
    visits = make_visits(
        1,
        companion=np.zeros(1, dtype=int),
        companion_rv_kms=np.array([80.0]),
        companion_dilution=np.array([0.3 * dilution]),
    )
    both = observe(wave_aa, one, visits, gap=DomainGap.none(), seed=1, companion_flux=one)
    alone = observe(wave_aa, one, make_visits(1), gap=DomainGap.none(), seed=1)
    moving = make_visits(1, rv_kms=np.array([80.0]), dilution=np.array([0.3 * dilution]))
    second = observe(wave_aa, one, moving, gap=DomainGap.none(), seed=1)
    np.testing.assert_allclose(both.noiseless, alone.noiseless + second.noiseless, rtol=1e-5)
    with pytest.raises(MismatchError, match="companion"):
        observe(wave_aa, one, visits, gap=DomainGap.none(), seed=1)


def test_shapes_are_checked(wave_aa, make_stars, make_visits):
    with pytest.raises(MismatchError, match="disagree"):
        observe(wave_aa, make_stars(1)[:, :-1], make_visits(1), gap=DomainGap.none(), seed=0)
