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
