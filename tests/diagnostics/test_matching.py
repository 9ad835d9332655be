"""Rows of two tables that are one star: by identifier, by place on the sky."""

import numpy as np
import pytest

from jaxmdwarf.diagnostics.matching import as_text, match_by_key, match_by_position
from jaxmdwarf.errors import UsageError


def test_identifiers_match_whatever_type_a_table_gave_them():
    ours = ["103", " 7 ", "x", "", "9"]
    theirs = np.array([7.0, 103.0, 9.0])
    found = match_by_key(ours, theirs)
    assert found.rows.tolist() == [0, 1, 4]
    assert found.reference_rows.tolist() == [1, 0, 2]
    assert np.isnan(found.separation_arcsec).all()


def test_several_visits_of_a_star_share_its_reference():
    found = match_by_key(["a", "a", "b"], ["a"])
    assert found.rows.tolist() == [0, 1]
    assert found.reference_rows.tolist() == [0, 0]


def test_the_first_of_repeated_references_counts_and_the_others_are_told():
    found = match_by_key(["a"], ["a", "b", "a", "a"])
    assert found.reference_rows.tolist() == [0]
    assert found.n_repeated == 2


@pytest.mark.parametrize(
    ("key", "text"),
    [(b"12 ", "12"), (12.0, "12"), (12.5, "12.5"), (np.nan, ""), (None, ""), (np.int64(3), "3")],
)
def test_keys_as_text(key, text):
    assert as_text(key) == text


@pytest.mark.parametrize(("ra", "dec"), [(10.0, 0.0), (0.0, 60.0), (200.0, -89.0), (359.9999, 5.0)])
def test_offsets_on_the_sky_are_found_as_they_were_made(ra, dec):
    # Offsets of 2 arcsec in declination and in right ascension, everywhere on the sphere.
    step = 2.0 / 3600
    ours = np.array([ra, ra]), np.array([dec, dec])
    theirs = (
        np.array([ra, (ra + step / np.cos(np.radians(dec))) % 360]),
        np.array([dec + step, dec]),
    )
    for k in range(2):
        found = match_by_position(*ours, theirs[0][k : k + 1], theirs[1][k : k + 1])
        assert found.rows.tolist() == [0, 1]
        np.testing.assert_allclose(found.separation_arcsec, 2.0, rtol=1e-4)
        assert not match_by_position(
            *ours, theirs[0][k : k + 1], theirs[1][k : k + 1], radius_arcsec=1.99
        ).rows.size


def test_the_nearest_of_several_counts():
    ra, dec = np.array([50.0]), np.array([20.0])
    theirs = np.array([50.0, 50.0]), np.array([20.0 + 2 / 3600, 20.0 + 1 / 3600])
    found = match_by_position(ra, dec, *theirs)
    assert found.reference_rows.tolist() == [1]


def test_agrees_with_astropy():
    from astropy import units as u
    from astropy.coordinates import SkyCoord, match_coordinates_sky

    rng = np.random.default_rng(2)
    ra, dec = rng.uniform(0, 360, 300), np.degrees(np.arcsin(rng.uniform(-1, 1, 300)))
    shifted = dec + rng.uniform(0, 6, 300) / 3600
    kept = shifted < 90
    ra, dec, shifted = ra[kept], dec[kept], shifted[kept]
    found = match_by_position(ra, shifted, ra, dec, radius_arcsec=3.0)
    index, separation, _ = match_coordinates_sky(
        SkyCoord(ra, shifted, unit="deg"), SkyCoord(ra, dec, unit="deg")
    )
    near = np.flatnonzero(separation < 3 * u.arcsec)
    assert found.rows.tolist() == near.tolist()
    assert found.reference_rows.tolist() == index[near].tolist()
    np.testing.assert_allclose(found.separation_arcsec, separation[near].arcsec, atol=1e-6)


def test_positions_that_are_not_known_match_nothing():
    nowhere = np.array([np.nan])
    assert not match_by_position(nowhere, nowhere, np.array([0.0]), np.array([0.0])).rows.size
    assert not match_by_position(np.array([0.0]), np.array([0.0]), nowhere, nowhere).rows.size


@pytest.mark.parametrize("radius", [0.0, -1.0, 4000.0])
def test_a_radius_that_makes_no_sense_is_refused(radius):
    zero = np.zeros(1)
    with pytest.raises(UsageError, match="arcsec"):
        match_by_position(zero, zero, zero, zero, radius_arcsec=radius)
