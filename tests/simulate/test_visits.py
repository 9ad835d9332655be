"""Visits: how many, through which fibre, and at which velocity."""

import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError


def test_a_tenth_of_the_stars_is_observed_three_times(population):
    visits = population.visits
    assert visits["star"].size == 6000
    assert np.mean(np.bincount(visits["star"]) >= 3) >= 0.10
    place = visits["plate"] * 16 * 250 + visits["spectrograph"] * 250 + visits["fibre"]
    assert np.unique(place).size == place.size
    assert visits["fibre"].min() >= 0
    assert visits["fibre"].max() < 250


def test_binaries_move_about_their_centre_of_mass(population):
    stars, visits = population.stars, population.visits
    double = stars["is_binary"][visits["star"]]
    star = visits["star"][double]
    ratio = stars["companion_mass"][star] / stars["mass"][star]
    primary = visits["rv_kms"][double] - stars["rv_kms"][star]
    secondary = visits["companion_rv_kms"][double] - stars["rv_kms"][star]
    np.testing.assert_allclose(primary + ratio * secondary, 0, atol=1e-9)
    np.testing.assert_array_equal(
        visits["rv_kms"][~double], stars["rv_kms"][visits["star"][~double]]
    )
    brighter = stars["abs_g_system"] <= stars["abs_g"] + 1e-12
    assert brighter.all()


def test_columns_of_one_length_are_asked_for(make_visits):
    with pytest.raises(MismatchError, match="shape"):
        make_visits(2, rv_kms=np.zeros(3))
