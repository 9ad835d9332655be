"""Where main-sequence M dwarfs lie in label space."""

import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.simulate.main_sequence import empirical_relation, surface_gravity
from jaxmdwarf.training.labels import isochrones
from jaxmdwarf.training.labels.isochrones import (
    LabelCutsConfig,
    alpha_of_metallicity,
    isochrone_points,
)


def gravity_at(labels, teff, mh):
    rows = np.isclose(labels[:, 2], labels[np.argmin(abs(labels[:, 2] - mh)), 2])
    along = labels[rows][np.argsort(labels[rows, 0])]
    return np.interp(teff, along[:, 0], along[:, 1])


def table_of_relation(*, step_feh=0.25, masses=None, ages=(9.0, 9.69897)):
    """The embedded relation written as an isochrone table."""
    masses = np.linspace(0.08, 0.7, 60) if masses is None else masses
    rows = []
    for feh in np.arange(-1.25, 0.75 + 1e-9, step_feh):
        teff, radius = empirical_relation(masses, np.full(masses.size, feh))
        for age in ages:
            columns = (np.full_like(masses, feh), np.full_like(masses, age), masses, teff)
            rows.append(np.column_stack([*columns, surface_gravity(masses, radius)]))
    table = np.concatenate(rows)
    return dict(zip(("feh", "log_age", "Mini", "Teff", "logg"), table.T, strict=True))


@pytest.fixture(scope="module")
def embedded():
    return isochrone_points()


def test_gravity_rises_to_cooler_stars_and_to_lower_metallicity(embedded):
    for mh in (-1.0, -0.5, 0.0, 0.5):
        gravity = gravity_at(embedded, np.array([3050.0, 3300.0, 3600.0, 3950.0]), mh)
        assert np.all(np.diff(gravity) < 0)
    by_metallicity = [gravity_at(embedded, 3400.0, mh) for mh in (-1.0, -0.5, 0.0, 0.5)]
    assert np.all(np.diff(by_metallicity) < -0.05)


def test_points_respect_the_cuts_and_reach_them(embedded):
    cuts = LabelCutsConfig()
    for column, (low, high) in ((0, cuts.teff), (2, cuts.mh)):
        assert embedded[:, column].min() == pytest.approx(low, rel=1e-3)
        assert embedded[:, column].max() == pytest.approx(high, rel=1e-3)
    assert np.all((embedded[:, 1] > 4.0) & (embedded[:, 1] < 6.0))


def test_points_are_even_along_each_isochrone(embedded):
    along = embedded[embedded[:, 2] == embedded[0, 2]]
    steps = np.hypot(np.diff(along[:, 0]) / 1000, np.diff(along[:, 1]))
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.05)


def test_alpha_follows_the_rule_of_the_paper(embedded):
    np.testing.assert_allclose(
        alpha_of_metallicity(np.array([0.5, 0.0, -0.25, -0.5, -1.0, -1.5])),
        [0.0, 0.0, 0.1, 0.2, 0.4, 0.4],
    )
    np.testing.assert_allclose(embedded[:, 3], alpha_of_metallicity(embedded[:, 2]))


def test_a_table_of_the_relation_gives_the_relation(embedded):
    labels = isochrone_points(table_of_relation())
    for mh in (-0.9, -0.4, 0.1, 0.4):
        teff = np.linspace(3050, 3950, 20)
        known = gravity_at(embedded, teff, mh)
        np.testing.assert_allclose(gravity_at(labels, teff, mh), known, atol=0.006)


def test_sparse_tables_are_filled_in_between():
    masses = np.array([0.09, 0.12, 0.18, 0.25, 0.35, 0.45, 0.55, 0.62, 0.68])
    sparse = isochrone_points(table_of_relation(masses=masses, step_feh=0.5))
    dense = isochrone_points(table_of_relation())
    along = sparse[sparse[:, 2] == 0.5]
    assert np.diff(along[:, 0]).max() < 20
    teff = np.linspace(3050, 3950, 20)
    for mh in (-0.5, 0.0, 0.25):
        expected = gravity_at(dense, teff, mh)
        np.testing.assert_allclose(gravity_at(sparse, teff, mh), expected, atol=0.03)


def test_an_isochrone_that_ends_early_is_bridged_by_its_neighbours():
    table = table_of_relation()
    short = (table["feh"] == 0.25) & (table["Mini"] > 0.4)
    table = {name: values[~short] for name, values in table.items()}
    labels = isochrone_points(table)
    near = labels[abs(labels[:, 2] - 0.25) < 0.02]
    assert near[:, 0].max() > 3990


def test_later_phases_do_not_enter():
    """A giant and a white dwarf at the end of an isochrone cross the cuts between them."""
    table = table_of_relation()
    late = {
        "feh": np.repeat(np.unique(table["feh"]), 2),
        "log_age": 9.69897,
        "Mini": np.tile([1.20, 1.22], 9),
        "Teff": np.tile([2900.0, 6000.0], 9),
        "logg": np.tile([0.0, 8.0], 9),
    }
    size = late["feh"].size
    both = {
        name: np.concatenate([values, np.broadcast_to(late[name], size)])
        for name, values in table.items()
    }
    np.testing.assert_array_equal(isochrone_points(both), isochrone_points(table))


def test_real_parsec_covers_the_cuts_without_holes(real_data):
    from jaxmdwarf.io.isochrones import read_isochrones

    table = read_isochrones(real_data / "parsec_v12S_lowmass_1_3_5_10Gyr.csv")
    labels = isochrone_points(table)
    for mh in np.unique(labels[:, 2]):
        teff = labels[labels[:, 2] == mh, 0]
        assert teff.min() < 3001
        assert teff.max() > 3999
        assert np.diff(np.sort(teff)).max() < 20
    gravity = [gravity_at(labels, 3300.0, mh) for mh in (-1.0, -0.5, 0.0, 0.5)]
    assert np.all(np.diff(gravity) < -0.05)
    # Ages hardly matter below 4000 K: section 3.3.2 of the paper says 0.03 dex.
    for age in (1.0, 10.0):
        other = isochrone_points(table, LabelCutsConfig(age_gyr=age))
        for teff in (3200.0, 3500.0, 3800.0):
            here, there = gravity_at(labels, teff, 0.0), gravity_at(other, teff, 0.0)
            assert abs(here - there) < 0.04


def test_isochrones_of_one_metallicity_are_not_enough():
    table = table_of_relation()
    one = table["feh"] == 0.0
    with pytest.raises(UsageError, match=r"one metallicity, \[M/H\] = 0"):
        isochrone_points({name: values[one] for name, values in table.items()})


def test_wrong_input_says_what_is_wrong():
    table = table_of_relation()
    with pytest.raises(UsageError, match=r"no age near 0\.1 Gyr; theirs are 1, 5 Gyr"):
        isochrone_points(table, LabelCutsConfig(age_gyr=0.1))
    with pytest.raises(UsageError, match="lacks Teff"):
        isochrone_points({name: table[name] for name in table if name != "Teff"})
    with pytest.raises(UsageError, match="lacks logg"):
        isochrone_points({name: table[name] for name in table if name != "logg"})
    with pytest.raises(UsageError, match=r"\[M/H\] -1.25..0.75"):
        isochrone_points(table, LabelCutsConfig(mh=(1.0, 2.0)))
    with pytest.raises(UsageError, match="no isochrone point lies within 6000-7000 K"):
        isochrone_points(table, LabelCutsConfig(teff=(6000.0, 7000.0)))
    with pytest.raises(UsageError, match="must increase"):
        LabelCutsConfig(teff=(4000.0, 3000.0))
    with pytest.raises(UsageError, match="no star below"):
        isochrone_points({**table, "Mini": table["Mini"] + 1.0})


def test_two_metallicities_are_enough_and_the_cuts_end_at_them():
    table = table_of_relation()
    two = np.isin(table["feh"], (-0.5, 0.25))
    labels = isochrone_points({name: values[two] for name, values in table.items()})
    assert labels[:, 2].min() == pytest.approx(-0.5)
    assert labels[:, 2].max() == pytest.approx(0.25)
    teff = np.linspace(3050, 3950, 20)
    for mh in (-0.5, 0.25):
        expected = gravity_at(isochrone_points(table), teff, mh)
        np.testing.assert_allclose(gravity_at(labels, teff, mh), expected, atol=0.01)


def test_points_are_at_equal_steps_of_a_line_that_is_known():
    """Teff and log g along a circle in units of 1000 K and dex: equal steps are equal angles."""
    angle = np.linspace(0.1, 1.5, 60) ** 1.5
    teff, logg = 3000 + 1000 * np.cos(angle), 4.0 + np.sin(angle)
    cuts = LabelCutsConfig(teff=(3000.0, 3900.0), logg=(4.0, 4.95))
    found = isochrones._cut_and_space(np.insert(teff, 5, np.nan), np.insert(logg, 5, 4.0), cuts, 9)
    there = np.arctan2(found[1] - 4.0, (found[0] - 3000) / 1000)
    expected = np.linspace(np.arccos(0.9), np.arcsin(0.95), 9)
    np.testing.assert_allclose(there, expected, atol=2e-3)
    assert isochrones._cut_and_space(teff[:1], logg[:1], cuts, 9) is None
    assert (
        isochrones._cut_and_space(teff[:2], logg[:2], cuts.widen(teff=500.0, mh=0.0), 2) is not None
    )
    assert isochrones._cut_and_space(teff, logg, LabelCutsConfig(teff=(5e3, 6e3)), 9) is None


def test_the_nearest_age_within_a_third_is_taken_and_massive_stars_are_left_out():
    table = table_of_relation(ages=(9.0, 9.6, 9.75, 10.1))
    feh, mass, _, _ = isochrones._select_age(table, 4.6)
    one = table["log_age"] == 9.6
    np.testing.assert_array_equal(mass, table["Mini"][one])
    np.testing.assert_array_equal(feh, table["feh"][one])
    for age, near in ((10**10.24 / 1e9, True), (10**10.26 / 1e9, False)):
        if near:
            assert isochrones._select_age(table, age)[0].size == one.sum()
        else:
            with pytest.raises(UsageError, match="no age near"):
                isochrones._select_age(table, age)
    table["Mini"] = np.where(table["Mini"] > 0.6, 0.8, table["Mini"])
    table["Mini"][one.argmax()] = 0.801
    table["Teff"][one.argmax() + 1] = np.nan
    table["logg"][one.argmax() + 2] = np.nan
    assert isochrones._select_age(table, 4.6)[0].size == one.sum() - 3


def test_radii_do_for_gravities():
    table = table_of_relation()
    logg = table.pop("logg")
    # g = G M / R^2, that of the Sun being 4.438.
    table["radius"] = np.sqrt(table["Mini"] * 10 ** (4.438 - logg))
    found = isochrones._select_age(table, 5.0)[3]
    np.testing.assert_allclose(found, logg[table["log_age"] > 9.5], atol=1e-3)


def test_cuts_reach_as_far_as_the_stars_of_a_sample_and_no_model_ends():
    cuts = LabelCutsConfig()
    space = LabelSpace(("teff", "mh"), ("K", "dex"), (2500.0, -2.0), (4200.0, 0.6))
    sample = np.c_[np.linspace(3500.0, 4100.0, 101), np.linspace(-0.5, 0.5, 101)]
    found = cuts.reach(sample, space)
    assert found.teff == (3000.0, pytest.approx(4094.0))
    assert (found.mh, found.logg, found.age_gyr) == (cuts.mh, cuts.logg, cuts.age_gyr)
    # One star in a hundred may lie beyond; labels that are not known do not count.
    far = np.r_[sample, [[5200.0, 0.4], [np.nan, -1.9], [3900.0, np.nan]]]
    assert found.teff[1] < cuts.reach(far, space).teff[1] < 4150.0
    hot = cuts.reach(sample + np.array([500.0, -2.5]), space)
    assert (hot.teff, hot.mh) == ((3000.0, 4200.0), (-2.0, 0.5))
    nameless = LabelSpace(("teff",), ("K",), (2500.0,), (4200.0,))
    assert cuts.reach(sample - np.array([0.0, 2.0]), nameless).mh == cuts.mh


def test_cuts_are_widened_to_both_sides_and_checked():
    cuts = LabelCutsConfig(teff=(3100.0, 3900.0), mh=(-0.5, 0.2), logg=(4.2, 5.5), age_gyr=3.0)
    wide = cuts.widen(teff=50.0, mh=0.1)
    assert wide.teff == (3050.0, 3950.0)
    assert wide.mh == pytest.approx((-0.6, 0.3))
    assert (wide.logg, wide.age_gyr) == ((4.2, 5.5), 3.0)
    for bad in ({"mh": (0.1, 0.1)}, {"logg": (5.0, 4.0)}, {"age_gyr": 0.0}):
        with pytest.raises(UsageError):
            LabelCutsConfig(**bad)
    for few in ({"n_metallicity": 1}, {"n_along": 1}):
        with pytest.raises(UsageError, match="at least two"):
            isochrone_points(**few)
    assert isochrone_points(n_metallicity=2, n_along=2).shape == (4, 4)
