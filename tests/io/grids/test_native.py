"""Native model spectra as they come in: sorted, cut, in vacuum, and of a star."""

import numpy as np
import pytest
from astropy import units as u
from astropy.modeling.models import BlackBody

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.grids.names import GridLabels
from jaxmdwarf.io.grids.native import WaveRange, black_body_flux, finish, require_last_line
from jaxmdwarf.wavelengths import vacuum_to_air

LABELS = GridLabels(3300.0, 4.9, -0.4, 0.1)
WAVE = np.arange(6000.0, 6400.0, 2.0)


def take(wave=WAVE, flux=None, labels=LABELS, *, air=False, wanted=None):
    flux = 0.7 * black_body_flux(wave, labels.teff) if flux is None else flux
    return finish(wave, flux, labels, layout="x", air=air, wanted=wanted)


def test_black_bodies_are_those_of_astropy():
    unit = u.erg / u.s / u.cm**2 / u.AA / u.sr
    expected = np.pi * BlackBody(3300 * u.K, scale=1 * unit)(WAVE * u.AA).value
    np.testing.assert_allclose(black_body_flux(WAVE, 3300.0), expected, rtol=1e-6)


def test_samples_come_out_sorted_once_and_in_vacuum():
    rng = np.random.default_rng(0)
    order = rng.permutation(len(WAVE))
    flux = 0.7 * black_body_flux(WAVE, 3300.0)
    again = np.r_[WAVE[order], WAVE[:3]], np.r_[flux[order], 9.0 * flux[:3]]
    found = take(*again)
    np.testing.assert_array_equal(found.wave_aa, WAVE)
    np.testing.assert_allclose(found.flux, flux)  # of repeats the first
    assert (found.labels, found.layout) == (LABELS, "x")
    spoilt = np.r_[WAVE, np.nan, -5.0, 0.0, 6401.0], np.r_[flux, 1.0, 1.0, 1.0, np.nan]
    np.testing.assert_array_equal(take(*spoilt).wave_aa, WAVE)
    in_air = vacuum_to_air(WAVE)
    np.testing.assert_allclose(take(in_air, flux, air=True).wave_aa, WAVE, atol=1e-6)
    np.testing.assert_allclose(take(in_air, flux).wave_aa, in_air)


def test_the_range_that_is_wanted_is_in_vacuum_with_both_ends():
    found = take(wanted=WaveRange(6100.0, 6200.0)).wave_aa
    assert (found[0], found[-1], found.size) == (6100.0, 6200.0, 51)
    in_air = take(vacuum_to_air(WAVE), air=True, wanted=WaveRange(6099.9, 6200.1)).wave_aa
    assert (found.size, in_air.size) == (51, 51)
    np.testing.assert_allclose(in_air, found, atol=1e-6)
    assert WaveRange(6000.0, 7000.0).with_margin() == WaveRange(5995.0, 7005.0)
    ten = take(wanted=WaveRange(6100.0, 6118.0)).wave_aa
    assert ten.size == 10
    with pytest.raises(RejectedInput, match="only 9 usable samples in 6100-6117 Angstrom"):
        take(wanted=WaveRange(6100.0, 6117.0))
    with pytest.raises(RejectedInput, match=r"only 9 usable samples\."):
        take(WAVE[:9])


@pytest.mark.parametrize(
    ("factor", "taken"), [(0.101, True), (0.099, False), (9.9, True), (10.1, False)]
)
def test_the_scale_of_the_flux_is_within_ten_of_a_black_body(factor, taken):
    flux = factor * black_body_flux(WAVE, 3300.0)
    if taken:
        assert take(flux=flux).wave_aa.size == WAVE.size
    else:
        with pytest.raises(RejectedInput, match=r"times that of a black body of Teff = 3300 K"):
            take(flux=flux)
    # Brown dwarfs and the blue are no black bodies.
    cool = LABELS._replace(teff=1499.0)
    take(flux=1e3 * black_body_flux(WAVE, 1499.0), labels=cool)
    with pytest.raises(RejectedInput, match="black body"):
        take(flux=1e3 * black_body_flux(WAVE, 1500.0), labels=LABELS._replace(teff=1500.0))
    blue = WAVE - 2382.0  # nine samples from 4,000 Angstrom on
    take(blue, 1e3 * black_body_flux(blue, 3300.0))
    # Ten of them tell.
    red = WAVE - 2380.0
    with pytest.raises(RejectedInput, match="black body"):
        take(red, 1e3 * black_body_flux(red, 3300.0))


def test_single_samples_may_be_bright_but_not_a_thousand_times():
    flux = 0.7 * black_body_flux(WAVE, 3300.0)
    for factor, taken in ((990.0, True), (1010.0, False)):
        changed = 0.2 * flux
        changed[77] = factor * black_body_flux(WAVE, 3300.0)[77]
        if taken:
            take(flux=changed)
        else:
            with pytest.raises(RejectedInput, match=r"at 6154\.00 A is 1e\+03 times"):
                take(flux=changed)
    for wrong, reason in ((np.inf, r"overflows at 6154\.00"), (-1.0, "negative or zero")):
        changed = flux.copy()
        changed[77] = wrong
        with pytest.raises(RejectedInput, match=reason):
            take(flux=changed)
    with pytest.raises(RejectedInput, match="negative or zero"):
        take(flux=0 * flux)
    some = flux.copy()
    some[:5] = 0.0
    take(flux=some)


def test_holes_of_more_than_fifty_steps_are_told():
    for n_lost, taken in ((49, True), (50, False)):
        wave = np.delete(WAVE, np.arange(60, 60 + n_lost))
        if taken:
            take(wave)
        else:
            with pytest.raises(RejectedInput, match=r"nothing between 6118\.0 and 6220\.0 A"):
                take(wave)
    # Of fine samples a hole of two Angstrom is none.
    fine = np.arange(6000.0, 6020.0, 0.01)
    take(np.delete(fine, np.arange(600, 798)))
    with pytest.raises(RejectedInput, match="nothing between"):
        take(np.delete(fine, np.arange(600, 801)))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("logg", -3.0, 10.0), ("mh", -7.0, 3.0), ("alpha_m", -3.0, 3.0), ("teff", 300.0, 2e5)],
)
def test_labels_are_those_of_stars(name, low, high):
    for value in (low, high):
        labels = LABELS._replace(**{name: value})
        wave = WAVE * (3300.0 / labels.teff) if name == "teff" else WAVE
        take(wave, black_body_flux(wave, labels.teff), labels=labels)
    for value in (low - 0.01, high + 0.01):
        with pytest.raises(RejectedInput, match=f"{name} = .* is not that of a star"):
            take(labels=LABELS._replace(**{name: value}), flux=WAVE)


def test_text_that_ends_within_a_line_was_cut():
    lines = [b"6000.0 1.25", b"6000.5 1.5", b"6001.0 1.125"]
    whole = b"\n".join(lines)
    for text in (whole, whole + b"\n", whole + b"\n\n", whole + b"\n6001.5 1.25", b"6000.0 1.25"):
        require_last_line(text)
    with pytest.raises(RejectedInput, match=r"cut off: '6001\.5 1'"):
        require_last_line(whole + b"\n6001.5 1")
    # The shortest line before it is the measure; one line alone is none.
    require_last_line(b"6000.0 1.25\n6000")
    require_last_line(b"6000.0 1.25\n1\n6000")
    with pytest.raises(RejectedInput, match="cut off"):
        require_last_line(b"6000.0 1.25\r\n6000.1 1\r\n6000.5 \r\n"[:-3] + b"\n60")
