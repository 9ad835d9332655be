"""Components of the Galaxy: how many stars lie along a line of sight, and how they move."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxmdwarf.simulate.tables import Columns

# ICRS to Galactic coordinates (Hipparcos catalogue, ESA SP-1200, volume 1, section 1.5.3).
_TO_GALACTIC = np.array(
    [
        [-0.0548755604, -0.8734370902, -0.4838350155],
        [0.4941094279, -0.4448296300, 0.7469822445],
        [-0.8676661490, -0.1980763734, 0.4559837762],
    ]
)
_SOLAR_MOTION_KMS = np.array([11.1, 12.24, 7.25])
"""Schoenrich et al. (2010, MNRAS 403 1829)."""
_R_SUN_KPC, _Z_SUN_KPC = 8.178, 0.0208
_KMS_PER_MASYR_KPC = 4.740470


@dataclass(frozen=True)
class DiscComponent:
    """A Galactic component: how many, how metal-rich, how hot.

    Parameters
    ----------
    local_share : float
        Share of the stars near the Sun.
    scale_height_kpc, scale_length_kpc : float
        Exponential scales (Juric et al. 2008, ApJ 673 864).
    mh_mean, mh_sigma : float
        Metallicity distribution.
    alpha_m, alpha_slope : float
        [alpha/M] at [M/H] = 0 and its slope; the floor is -0.1, the ceiling 0.5.
    sigma_kms : tuple of float
        Velocity dispersions in U, V, W; the thin disc's are those at 10 Gyr.
    lag_kms : float
        Asymmetric drift.
    age_gyr : tuple of float
        Range of ages, uniform.
    """

    local_share: float
    scale_height_kpc: float
    scale_length_kpc: float
    mh_mean: float
    mh_sigma: float
    alpha_m: float
    alpha_slope: float
    sigma_kms: tuple[float, float, float]
    lag_kms: float
    age_gyr: tuple[float, float]


COMPONENTS: dict[str, DiscComponent] = {
    "thin": DiscComponent(
        0.91, 0.30, 2.6, -0.05, 0.19, 0.02, -0.18, (41.9, 28.8, 23.8), 12.0, (0.2, 10.0)
    ),
    "thick": DiscComponent(
        0.085, 0.90, 3.0, -0.48, 0.22, 0.12, -0.25, (67.0, 45.0, 42.0), 46.0, (8.0, 12.0)
    ),
    "halo": DiscComponent(
        0.005, 6.0, 6.0, -1.25, 0.35, 0.28, -0.08, (141.0, 85.0, 80.0), 220.0, (10.5, 13.0)
    ),
}
"""Thin disc: dispersions grow with age^(0.31, 0.43, 0.45) (Aumer & Binney 2009, MNRAS 397 1286);
thick disc and halo after Bensby et al. (2003, A&A 410 527) and Juric et al. (2008)."""


def sample_within_field(
    ra: np.ndarray, dec: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Positions uniform within 2.5 degrees of field centres.

    Parameters
    ----------
    ra, dec : (n,)
        Of the centres, degrees.
    rng : numpy Generator

    Returns
    -------
    ra, dec : (n,)
        Degrees.
    """
    angle = rng.uniform(0, 2 * np.pi, ra.size)
    offset = 2.5 * np.sqrt(rng.random(ra.size))
    new_dec = dec + offset * np.cos(angle)
    new_ra = (ra + offset * np.sin(angle) / np.cos(np.radians(new_dec))) % 360
    return new_ra, new_dec


def sample_distance(
    m_g: np.ndarray,
    ra: np.ndarray,
    dec: np.ndarray,
    part: Columns,
    rng: np.random.Generator,
    *,
    g_limits: tuple[float, float],
    faint_decline: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Number of stars along each line of sight within the limits, and one distance each.

    Parameters
    ----------
    m_g : (n,)
        Absolute G magnitudes.
    ra, dec : (n,)
        Degrees.
    part : Columns
        ``scale_height_kpc`` and ``scale_length_kpc`` of the component that each star is of, (n,).
    rng : numpy Generator
    g_limits : (bright, faint)
        Apparent magnitudes.
    faint_decline : float
        Stars fainter by a magnitude are observed less often by this many dex.

    Returns
    -------
    number : (n,)
        Relative to other stars of the same local density.
    distance_pc : (n,)
    """
    bright, faint = g_limits
    apparent = np.linspace(bright, faint, 49)
    distance = 10 ** (0.2 * (apparent[None, :] - m_g[:, None]) + 1)
    direction = _TO_GALACTIC @ _unit_vector(ra, dec)
    x, y, z = (direction[:, :, None] * distance * 1e-3) + np.array([0.0, 0.0, _Z_SUN_KPC])[
        :, None, None
    ]
    galactocentric = np.hypot(_R_SUN_KPC - x, y)
    ln_density = (
        -abs(z) / part["scale_height_kpc"][:, None]
        - (galactocentric - _R_SUN_KPC) / part["scale_length_kpc"][:, None]
    )
    selection = 10 ** (-faint_decline * (apparent - bright))
    # d^2 dd is d^3 dlnd, and magnitudes are equidistant in ln d.
    number = np.exp(ln_density) * distance**3 * selection
    cumulative = np.cumsum(number, axis=1)
    target = rng.random(m_g.size) * cumulative[:, -1]
    step = np.minimum((cumulative < target[:, None]).sum(axis=1), apparent.size - 1)
    within = (rng.random(m_g.size) - 0.5) * (apparent[1] - apparent[0])
    chosen = np.clip(apparent[step] + within, bright, faint)
    return cumulative[:, -1], 10 ** (0.2 * (chosen - m_g) + 1)


def _unit_vector(ra, dec) -> np.ndarray:
    """Towards directions in degrees, (3, n)."""
    ra, dec = np.radians(ra), np.radians(dec)
    return np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])


def add_motion(stars: Columns, rng: np.random.Generator) -> None:
    """Velocities from the ellipsoids, turned into radial velocity and proper motion, in place.

    Parameters
    ----------
    stars : Columns
        With ``component``, ``age_gyr``, ``ra_deg``, ``dec_deg`` and ``distance_pc``; gets
        ``rv_kms``, ``pmra_true``, ``pmdec_true`` (mas/yr), ``u_kms``, ``v_kms``, ``w_kms``.
    rng : numpy Generator
    """
    n = stars["ra_deg"].size
    velocity = np.empty((3, n))
    for name, part in COMPONENTS.items():
        rows = np.flatnonzero(stars["component"] == name)
        sigma = np.repeat(np.array(part.sigma_kms)[:, None], rows.size, axis=1)
        if name == "thin":
            power = np.array([0.307, 0.430, 0.445])[:, None]
            sigma = sigma * (stars["age_gyr"][rows] / 10.0) ** power
        velocity[:, rows] = sigma * rng.standard_normal((3, rows.size))
        velocity[1, rows] -= part.lag_kms
    velocity -= _SOLAR_MOTION_KMS[:, None]
    equatorial = _TO_GALACTIC.T @ velocity
    ra, dec = np.radians(stars["ra_deg"]), np.radians(stars["dec_deg"])
    east = np.array([-np.sin(ra), np.cos(ra), np.zeros(n)])
    north = np.array([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)])
    radial = _unit_vector(stars["ra_deg"], stars["dec_deg"])
    per_kms = 1.0 / (_KMS_PER_MASYR_KPC * stars["distance_pc"] * 1e-3)
    stars["rv_kms"] = (equatorial * radial).sum(axis=0)
    stars["pmra_true"] = (equatorial * east).sum(axis=0) * per_kms
    stars["pmdec_true"] = (equatorial * north).sum(axis=0) * per_kms
    stars["u_kms"], stars["v_kms"], stars["w_kms"] = velocity + _SOLAR_MOTION_KMS[:, None]
