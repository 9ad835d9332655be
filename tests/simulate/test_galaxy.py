"""Stars move as the components of the Galaxy do."""

import numpy as np


def test_velocities_are_those_of_the_disc(dwarfs):
    thin, thick = dwarfs["component"] == "thin", dwarfs["component"] == "thick"
    assert 25 < dwarfs["rv_kms"][thin].std() < 45
    assert dwarfs["w_kms"][thick].std() > 1.7 * dwarfs["w_kms"][thin].std()
    young, old = thin & (dwarfs["age_gyr"] < 2), thin & (dwarfs["age_gyr"] > 8)
    assert dwarfs["w_kms"][old].std() > 1.6 * dwarfs["w_kms"][young].std()
    # Space velocity and its projections are the same number.
    tangential = (
        4.74047e-3 * np.hypot(dwarfs["pmra_true"], dwarfs["pmdec_true"]) * dwarfs["distance_pc"]
    )
    total = np.hypot(tangential, dwarfs["rv_kms"])
    sun = np.array([11.1, 12.24, 7.25])[:, None]
    space = np.array([dwarfs["u_kms"], dwarfs["v_kms"], dwarfs["w_kms"]]) - sun
    np.testing.assert_allclose(total, np.linalg.norm(space, axis=0), rtol=1e-6)


def test_sky_velocities_are_those_that_astropy_makes_of_galactic_ones(dwarfs):
    import astropy.units as u
    from astropy.coordinates import SkyCoord

    some = {name: values[:200] for name, values in dwarfs.items()}
    stars = SkyCoord(
        some["ra_deg"] * u.deg,
        some["dec_deg"] * u.deg,
        distance=some["distance_pc"] * u.pc,
        pm_ra_cosdec=some["pmra_true"] * u.mas / u.yr,
        pm_dec=some["pmdec_true"] * u.mas / u.yr,
        radial_velocity=some["rv_kms"] * u.km / u.s,
    )
    seen = stars.galactic.velocity.d_xyz.to_value(u.km / u.s)
    sun = np.array([11.1, 12.24, 7.25])[:, None]
    space = np.array([some["u_kms"], some["v_kms"], some["w_kms"]])
    np.testing.assert_allclose(seen, space - sun, atol=0.05)


def test_old_components_lag_behind_the_rotation_of_the_disc(dwarfs):
    lag = {name: dwarfs["v_kms"][dwarfs["component"] == name].mean() for name in ("thin", "thick")}
    assert lag["thick"] < lag["thin"] < 0
