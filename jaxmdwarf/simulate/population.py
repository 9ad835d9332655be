"""Stars of a simulated survey: labels, photometry, orbits and visits that belong together.

M dwarfs follow published mass-luminosity-radius-metallicity relations (or any isochrone table), a
disc with thin, thick and halo components, and a magnitude limit. Interstellar extinction is left
out, and so is pre-main-sequence structure: young stars are active, not larger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from jaxmdwarf.errors import UsageError

LOGG_SUN = 4.438
TEFF_SUN = 5772.0
MBOL_SUN = 4.74

_MASS_POLYNOMIAL = (-0.642, -0.208, -8.43e-4, 7.87e-3, 1.42e-4, -2.13e-4)
_RADIUS_POLYNOMIAL = (1.9305, -0.3466, 0.01647)
_RADIUS_FEH = 0.04458
_FEH_LIMITS = (-1.5, 0.6)

BOLOMETRIC_CORRECTIONS: dict[str, tuple[float, ...]] = {
    "k": (2.6356, -1.1915, -0.0542, -10.3142, 0.1709, 0.1225),
    "g": (-1.0902, 3.6784, -6.0445, 12.8461, -0.2687, 0.4721),
    "bp": (-2.2401, 7.1668, -15.7489, 34.4967, -0.3507, -0.0994),
    "rp": (0.2997, 1.7295, -5.3673, 14.4879, -0.1929, 0.7936),
}
"""m_bol - m in 2MASS Ks and Gaia G, BP, RP: coefficients of 1, x, x^2, x^3, [Fe/H], x [Fe/H] with
x = Teff / 3500 K - 1; our robust fit to the 183 stars of Mann et al. (2015, ApJ 804 64; 2016
erratum), rms 0.03, 0.06, 0.11 and 0.04 mag, 2700-4130 K."""

_K_DWARFS = np.array(
    # Teff, mass, radius, M_G, BP - RP: Pecaut & Mamajek (2013, ApJS 208 9), updated table; radii
    # from its luminosities. The first row joins the relations for M dwarfs.
    [
        (4090.0, 0.64, 0.630, 7.57, 1.70),
        (4300.0, 0.67, 0.669, 7.15, 1.53),
        (4440.0, 0.70, 0.701, 6.85, 1.43),
        (4600.0, 0.72, 0.710, 6.59, 1.34),
        (4870.0, 0.76, 0.755, 6.22, 1.19),
        (5100.0, 0.82, 0.783, 5.83, 1.10),
    ]
)

_TYPE_TEFF = (
    2320.0,
    2620.0,
    2800.0,
    3030.0,
    3200.0,
    3360.0,
    3500.0,
    3680.0,
    3850.0,
    4050.0,
    4440.0,
)
_TYPE = (9.0, 7.5, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0, -1.0, -2.0)
_ACTIVITY_LIFETIME_GYR = (0.8, 0.8, 1.2, 2.0, 4.5, 7.0, 7.0, 8.0, 8.0, 8.0)
_HALPHA_EW_AA = (1.4, 1.8, 2.2, 3.0, 4.2, 5.5, 7.0, 8.0, 8.0, 8.0)

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
_PC_CM, _RSUN_CM = 3.0856776e18, 6.957e10

Relation = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(mass in Msun, [M/H]) -> (Teff in K, radius in Rsun)."""

Columns = dict[str, np.ndarray]
"""A table: column names to arrays of one length."""


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


@dataclass(frozen=True)
class PopulationConfig:
    """What kind of stars and how often each was observed.

    Parameters
    ----------
    mass_range : (low, high)
        M dwarfs, solar masses; drawn from dN/dM ~ M^-1.3 (Kroupa 2001) within the volume seen.
    g_limits : (bright, faint)
        Apparent magnitudes.
    faint_decline : float
        Targeting and success of spectra fall by this many dex per magnitude.
    transparency : float
        Median share of the nominal light that arrives: weather, seeing and fibre placement. With
        `faint_decline` it sets the distribution of signal-to-noise.
    teff_limit : float
        Above this the survey's pipeline calls half of the stars K, not M (soft by 50 K).
    dec_range_deg : (south, north)
    binary_fraction : float
        Unresolved companions among the M dwarfs.
    pair_fraction : float
        M dwarfs that are secondaries of a wide FGK primary.
    k_dwarf_fraction, giant_fraction, failed_fraction : float
        Contaminants: K dwarfs of 4300-5000 K, M giants, spectra that went wrong.
    visit_shares : tuple of float
        Share of stars with 1, 2, 3 ... spectra.
    """

    mass_range: tuple[float, float] = (0.10, 0.67)
    g_limits: tuple[float, float] = (12.0, 18.0)
    faint_decline: float = 0.30
    transparency: float = 0.28
    teff_limit: float = 4000.0
    dec_range_deg: tuple[float, float] = (-8.0, 58.0)
    binary_fraction: float = 0.12
    pair_fraction: float = 0.04
    k_dwarf_fraction: float = 0.04
    giant_fraction: float = 0.01
    failed_fraction: float = 0.02
    visit_shares: tuple[float, ...] = (0.73, 0.14, 0.07, 0.04, 0.02)

    def __post_init__(self) -> None:
        low, high = self.mass_range
        if not 0.08 <= low < high <= 0.70:
            raise UsageError(
                f"mass range {self.mass_range} leaves the relations.", "stay within 0.08-0.70 Msun."
            )
        if not self.g_limits[0] < self.g_limits[1]:
            raise UsageError(f"magnitude limits {self.g_limits} must increase.")
        if self.contaminant_fraction > 0.9:
            raise UsageError("more than nine tenths of the survey are contaminants.")

    @property
    def contaminant_fraction(self) -> float:
        """Share of stars that are no M dwarfs."""
        return self.k_dwarf_fraction + self.giant_fraction


@dataclass(frozen=True)
class Population:
    """A drawn population.

    Parameters
    ----------
    stars : Columns
        One row a star: labels, astrometry, photometry, multiplicity, activity.
    visits : Columns
        One row a spectrum, with `star` pointing into `stars`.
    pairs : Columns
        One row a wide pair: the FGK primary's properties, `star` pointing to the secondary.
    """

    stars: Columns
    visits: Columns
    pairs: Columns = field(default_factory=dict)


def mass_from_absolute_k(m_k: np.ndarray) -> np.ndarray:
    """Mass in Msun of main-sequence stars from M_Ks, 4 < M_Ks < 11 (0.075-0.75 Msun).

    Mann et al. (2019, ApJ 871 63), table 6, fifth order without metallicity term (which is
    consistent with zero).

    Examples
    --------
    >>> mass_from_absolute_k(np.array([5.0, 8.0])).round(3).tolist()
    [0.597, 0.18]
    """
    return 10 ** np.polynomial.polynomial.polyval(np.asarray(m_k) - 7.5, _MASS_POLYNOMIAL)


def absolute_k_from_mass(mass: np.ndarray) -> np.ndarray:
    """M_Ks from mass: the inverse of `mass_from_absolute_k`."""
    m_k = np.linspace(3.8, 11.2, 2000)
    return np.interp(-np.asarray(mass), -mass_from_absolute_k(m_k), m_k)


def radius_from_absolute_k(m_k: np.ndarray, feh: np.ndarray) -> np.ndarray:
    """Radius in Rsun from M_Ks and [Fe/H]: Mann et al. (2015, ApJ 804 64; erratum), equation 5."""
    radius = np.polynomial.polynomial.polyval(np.asarray(m_k), _RADIUS_POLYNOMIAL)
    return radius * (1 + _RADIUS_FEH * np.clip(feh, *_FEH_LIMITS))


def bolometric_correction(band: str, teff: np.ndarray, feh: np.ndarray) -> np.ndarray:
    """m_bol - m of M dwarfs in ``k``, ``g``, ``bp`` or ``rp``; see `BOLOMETRIC_CORRECTIONS`."""
    x = np.clip(np.asarray(teff), 2600.0, 4200.0) / 3500.0 - 1
    feh = np.clip(feh, *_FEH_LIMITS)
    a, b, c, d, e, f = BOLOMETRIC_CORRECTIONS[band]
    return a + x * (b + x * (c + x * d)) + feh * (e + f * x)


def empirical_relation(mass: np.ndarray, mh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Teff (K) and radius (Rsun) of M dwarfs of given mass and metallicity.

    Mass gives M_Ks, M_Ks and [Fe/H] the radius, M_Ks and the K-band bolometric correction the
    luminosity, and both together Teff.

    Parameters
    ----------
    mass : (n,)
        Solar masses, 0.08 to 0.70.
    mh : (n,)
        [M/H], taken as [Fe/H]; relations were measured from -0.6 to 0.5 and are held constant
        below -1.5.

    Examples
    --------
    >>> teff, radius = empirical_relation(np.array([0.6, 0.2]), np.zeros(2))
    >>> teff.round(-2).tolist(), radius.round(2).tolist()
    ([4000.0, 3200.0], [0.61, 0.23])
    """
    m_k = absolute_k_from_mass(mass)
    radius = radius_from_absolute_k(m_k, mh)
    teff = np.full(np.shape(mass), 3500.0)
    # The correction depends on Teff weakly (a tenth of a magnitude per 250 K): it contracts.
    for _ in range(12):
        m_bol = m_k + bolometric_correction("k", teff, mh)
        teff = TEFF_SUN * (10 ** (-0.4 * (m_bol - MBOL_SUN)) / radius**2) ** 0.25
    return teff, radius


def isochrone_relation(table: Mapping[str, np.ndarray], *, log_age: float = 9.7) -> Relation:
    """A main-sequence relation from a table of isochrones.

    Parameters
    ----------
    table : mapping of columns (a DataFrame or a dict of arrays)
        ``feh``, ``log_age``, ``Mini`` (Msun), ``Teff`` (K) and ``radius`` (Rsun), one row a point,
        e.g. PARSEC.
    log_age : float
        log10(age/yr); the nearest age of the table is taken.

    Returns
    -------
    Relation
        Interpolates in mass along each isochrone, then linearly in metallicity; NaN outside the
        masses of the isochrones.

    Raises
    ------
    UsageError
        If a column is missing.
    """
    needed = ("feh", "log_age", "Mini", "Teff", "radius")
    missing = [name for name in needed if name not in table]
    if missing:
        raise UsageError(
            f"the isochrone table lacks {', '.join(missing)}.", f"name its columns {needed}."
        )
    feh, age, mass, teff, radius = (np.asarray(table[name], dtype=float) for name in needed)
    ages = np.unique(age)
    chosen = age == ages[np.argmin(abs(ages - log_age))]
    metallicities = np.unique(feh[chosen])
    tracks = []
    for value in metallicities:
        rows = np.flatnonzero(chosen & (feh == value))
        rows = rows[np.argsort(mass[rows])]
        tracks.append((mass[rows], teff[rows], radius[rows]))

    def relation(mass: np.ndarray, mh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mass, mh = np.asarray(mass, dtype=float), np.clip(mh, metallicities[0], metallicities[-1])
        upper = np.clip(np.searchsorted(metallicities, mh), 1, metallicities.size - 1)
        weight = (mh - metallicities[upper - 1]) / (metallicities[upper] - metallicities[upper - 1])
        on_tracks = np.array(
            [
                [np.interp(mass, track[0], track[k], np.nan, np.nan) for track in tracks]
                for k in (1, 2)
            ]
        )
        column = np.arange(mass.size)
        low, high = on_tracks[:, upper - 1, column], on_tracks[:, upper, column]
        teff, radius = low * (1 - weight) + high * weight
        return teff, radius

    return relation


def surface_gravity(mass: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """log g (cgs) from mass and radius in solar units."""
    return LOGG_SUN + np.log10(mass) - 2 * np.log10(radius)


def spectral_type(teff: np.ndarray) -> np.ndarray:
    """Numerical subtype (0 = M0, negative = K: -1 is K7) that goes with Teff, solar metallicity.

    Anchored at M0 3850, M2 3500 and M4 3200 K; within 80 K of Pecaut & Mamajek (2013) elsewhere.
    """
    return np.interp(teff, _TYPE_TEFF, _TYPE)


def absolute_magnitudes(teff: np.ndarray, radius: np.ndarray, mh: np.ndarray) -> Columns:
    """M_G, M_BP, M_RP and M_Ks of M dwarfs, consistent with their labels."""
    m_bol = MBOL_SUN - 10 * np.log10(teff / TEFF_SUN) - 5 * np.log10(radius)
    return {band: m_bol - bolometric_correction(band, teff, mh) for band in ("g", "bp", "rp", "k")}


def sample_population(
    n_spectra: int,
    *,
    seed: int,
    config: PopulationConfig | None = None,
    relation: Relation = empirical_relation,
) -> Population:
    """Draw stars and their visits until there are `n_spectra` spectra.

    Parameters
    ----------
    n_spectra : int
        Spectra, not stars: some stars are visited several times.
    seed : int
    config : PopulationConfig, optional
    relation : callable
        Main sequence; see `empirical_relation` and `isochrone_relation`.

    Returns
    -------
    Population

    Raises
    ------
    UsageError
        If `n_spectra` is not positive.
    """
    if n_spectra < 1:
        raise UsageError(f"{n_spectra} spectra were asked for.", "ask for at least one.")
    config = config or PopulationConfig()
    streams = [
        np.random.Generator(np.random.PCG64(child))
        for child in np.random.SeedSequence(seed).spawn(7)
    ]
    stars_rng, kind_rng, orbit_rng, gaia_rng, visit_rng, pair_rng, label_rng = streams

    n_visits = _sample_visit_counts(n_spectra, config, visit_rng)
    n_stars = n_visits.size
    kind = kind_rng.choice(
        np.array(["mdwarf", "kdwarf", "giant"]),
        size=n_stars,
        p=[1 - config.contaminant_fraction, config.k_dwarf_fraction, config.giant_fraction],
    )
    stars = _sample_m_dwarfs(n_stars, config, relation, stars_rng)
    _replace_with_contaminants(stars, kind, config, kind_rng)
    _add_motion(stars, stars_rng)
    _add_activity(stars, label_rng)
    _add_companions(stars, config, relation, orbit_rng)
    _add_gaia(stars, gaia_rng)
    visits = _sample_visits(stars, n_visits, config, visit_rng)
    pairs = _sample_pairs(stars, config, pair_rng)
    return Population(stars, visits, pairs)


def _sample_visit_counts(n_spectra, config, rng) -> np.ndarray:
    shares = np.asarray(config.visit_shares) / np.sum(config.visit_shares)
    counts = rng.choice(np.arange(1, shares.size + 1), size=n_spectra, p=shares)
    n_stars = int(np.searchsorted(np.cumsum(counts), n_spectra)) + 1
    counts = counts[:n_stars]
    counts[-1] -= counts.sum() - n_spectra
    return counts


def _sample_m_dwarfs(n, config, relation, rng) -> Columns:
    """M dwarfs of a magnitude-limited survey, by rejection from a mass function times volume."""
    mass_grid = np.linspace(config.mass_range[0], config.mass_range[1], 400)
    teff, radius = relation(mass_grid, np.zeros_like(mass_grid))
    m_g = absolute_magnitudes(teff, radius, np.zeros_like(mass_grid))["g"]
    volume = np.minimum(10 ** (0.2 * (config.g_limits[1] - m_g) + 1), 500.0) ** 3
    volume = np.nan_to_num(volume)
    cumulative = np.cumsum(mass_grid**-1.3 * volume)
    cumulative /= cumulative[-1]

    n_field = max(1, round(n / 100))
    south, north = np.sin(np.radians(config.dec_range_deg))
    field_ra = rng.uniform(0, 360, n_field)
    field_dec = np.degrees(np.arcsin(rng.uniform(south, north, n_field)))

    names = list(COMPONENTS)
    shares = np.array([part.local_share for part in COMPONENTS.values()])
    accepted: list[Columns] = []
    n_accepted, bound = 0, 0.0
    while n_accepted < n:
        m = 4 * n + 200
        which = rng.choice(len(names), size=m, p=shares / shares.sum())
        part = {
            key: np.array([getattr(value, key) for value in COMPONENTS.values()])[which]
            for key in (
                "scale_height_kpc",
                "scale_length_kpc",
                "mh_mean",
                "mh_sigma",
                "alpha_m",
                "alpha_slope",
                "age_gyr",
            )
        }
        mass = np.interp(rng.random(m), cumulative, mass_grid)
        mh = np.clip(part["mh_mean"] + part["mh_sigma"] * rng.standard_normal(m), -2.0, 0.55)
        alpha = part["alpha_m"] + part["alpha_slope"] * mh + 0.04 * rng.standard_normal(m)
        age = part["age_gyr"][:, 0] + rng.random(m) * np.ptp(part["age_gyr"], axis=1)
        teff, radius = relation(mass, mh)
        magnitude = absolute_magnitudes(teff, radius, mh)
        pointing = rng.integers(0, n_field, m)
        ra, dec = _within_field(field_ra[pointing], field_dec[pointing], rng)
        weight, distance = _sample_distance(magnitude["g"], ra, dec, part, config, rng)
        weight /= np.interp(mass, mass_grid, volume)
        with np.errstate(invalid="ignore"):
            weight *= 1 / (1 + np.exp(np.clip((teff - config.teff_limit) / 50.0, -30, 30)))
        # Masses that a relation does not know (NaN) are not drawn.
        weight = np.nan_to_num(weight)
        # The bound grows to the largest weight met; ties to batches are harmless.
        bound = max(bound, float(np.quantile(weight, 0.999)))
        keep = rng.random(m) < weight / bound
        accepted.append(
            {
                "component": np.array(names)[which][keep],
                "mass": mass[keep],
                "radius": radius[keep],
                "teff": teff[keep],
                "logg": surface_gravity(mass, radius)[keep],
                "mh": mh[keep],
                "alpha_m": np.clip(alpha, -0.1, 0.5)[keep],
                "age_gyr": age[keep],
                "field": pointing[keep],
                "ra_deg": ra[keep],
                "dec_deg": dec[keep],
                "distance_pc": distance[keep],
                **{f"abs_{band}": values[keep] for band, values in magnitude.items()},
            }
        )
        n_accepted += int(keep.sum())
    return {name: np.concatenate([part[name] for part in accepted])[:n] for name in accepted[0]}


def _within_field(ra, dec, rng) -> tuple[np.ndarray, np.ndarray]:
    """Positions uniform within 2.5 degrees of field centres."""
    angle = rng.uniform(0, 2 * np.pi, ra.size)
    offset = 2.5 * np.sqrt(rng.random(ra.size))
    new_dec = dec + offset * np.cos(angle)
    new_ra = (ra + offset * np.sin(angle) / np.cos(np.radians(new_dec))) % 360
    return new_ra, new_dec


def _sample_distance(m_g, ra, dec, part, config, rng) -> tuple[np.ndarray, np.ndarray]:
    """Number of stars along each line of sight within the limits, and one distance (pc) each."""
    bright, faint = config.g_limits
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
    selection = 10 ** (-config.faint_decline * (apparent - bright))
    # d^2 dd is d^3 dlnd, and magnitudes are equidistant in ln d.
    number = np.exp(ln_density) * distance**3 * selection
    cumulative = np.cumsum(number, axis=1)
    target = rng.random(m_g.size) * cumulative[:, -1]
    step = np.minimum((cumulative < target[:, None]).sum(axis=1), apparent.size - 1)
    within = (rng.random(m_g.size) - 0.5) * (apparent[1] - apparent[0])
    chosen = np.clip(apparent[step] + within, bright, faint)
    return cumulative[:, -1], 10 ** (0.2 * (chosen - m_g) + 1)


def _unit_vector(ra, dec) -> np.ndarray:
    ra, dec = np.radians(ra), np.radians(dec)
    return np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])


def _replace_with_contaminants(stars, kind, config, rng) -> None:
    stars["kind"] = kind
    stars["failed"] = rng.random(kind.size) < config.failed_fraction
    dwarf = np.flatnonzero(kind == "kdwarf")
    teff = rng.uniform(4300.0, 5000.0, dwarf.size)
    mass, radius, m_g, colour = (
        np.interp(teff, _K_DWARFS[:, 0], _K_DWARFS[:, k]) for k in (1, 2, 3, 4)
    )
    # Subdwarfs are fainter at a given temperature; 0.9 mag a dex is what M dwarfs show at 4000 K.
    m_g = m_g - 0.9 * np.clip(stars["mh"][dwarf], -1.0, 0.5)
    _set_star(stars, dwarf, teff, mass, radius, m_g, colour)
    apparent = config.g_limits[1] - 1.0 - rng.exponential(1.0, dwarf.size)
    apparent = np.clip(apparent, *config.g_limits)
    stars["distance_pc"][dwarf] = 10 ** (0.2 * (apparent - m_g) + 1)

    giant = np.flatnonzero(kind == "giant")
    logg = rng.uniform(1.0, 2.0, giant.size)
    # The giant branch: cooler as gravity falls (about 300 K a dex).
    teff = 4150.0 - 330.0 * (2.0 - logg) + 60.0 * rng.standard_normal(giant.size)
    mass = np.full(giant.size, 1.1)
    radius = np.sqrt(mass * 10 ** (LOGG_SUN - logg))
    magnitude = absolute_magnitudes(teff, radius, np.zeros(giant.size))
    _set_star(stars, giant, teff, mass, radius, magnitude["g"], magnitude["bp"] - magnitude["rp"])
    apparent = rng.uniform(config.g_limits[0], config.g_limits[0] + 3.0, giant.size)
    stars["distance_pc"][giant] = 10 ** (0.2 * (apparent - magnitude["g"]) + 1)


def _set_star(stars, rows, teff, mass, radius, m_g, colour) -> None:
    stars["teff"][rows], stars["mass"][rows], stars["radius"][rows] = teff, mass, radius
    stars["logg"][rows] = surface_gravity(mass, radius)
    stars["abs_g"][rows] = m_g
    # G lies about 45 per cent of the way from RP to BP for these colours.
    stars["abs_rp"][rows] = m_g - 0.45 * colour
    stars["abs_bp"][rows] = m_g + 0.55 * colour
    stars["abs_k"][rows] = m_g - 1.25 * colour


def _add_motion(stars, rng) -> None:
    """Velocities from the ellipsoids, turned into radial velocity and proper motion."""
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


def _add_activity(stars, rng) -> None:
    """Chromospheres: stars younger than the activity lifetime of their type.

    Lifetimes after West et al. (2008, AJ 135 785): 0.8 Gyr at M0 to 8 Gyr at M7.
    """
    n = stars["teff"].size
    subtype = spectral_type(stars["teff"])
    stars["spt"] = subtype
    lifetime = np.interp(subtype, np.arange(10), _ACTIVITY_LIFETIME_GYR)
    lifetime = lifetime * 10 ** (0.15 * rng.standard_normal(n))
    stars["active"] = (stars["age_gyr"] < lifetime) & (stars["kind"] == "mdwarf")
    strength = np.interp(subtype, np.arange(10), _HALPHA_EW_AA)
    strength = strength * 10 ** (0.18 * rng.standard_normal(n))
    stars["halpha_ew_aa"] = np.where(stars["active"], strength, 0.0)


def _add_companions(stars, config, relation, rng) -> None:
    """Unresolved companions of M dwarfs: labels of the secondary, orbital amplitude, light."""
    n = stars["teff"].size
    is_binary = (rng.random(n) < config.binary_fraction) & (stars["kind"] == "mdwarf")
    mass_ratio = rng.uniform(0.4, 1.0, n)
    mass = np.clip(stars["mass"] * mass_ratio, 0.085, 0.7)
    # The relation is only ever asked within its range: single stars take a harmless one.
    teff, radius = relation(np.where(is_binary, mass, 0.3), stars["mh"])
    is_binary &= np.isfinite(teff)
    magnitude = absolute_magnitudes(teff, radius, stars["mh"])
    amplitude = 10 ** rng.uniform(-1.0, 1.5, n)
    blank = np.where(is_binary, 1.0, np.nan)
    stars["is_binary"] = is_binary
    stars["companion_mass"] = mass * blank
    stars["companion_teff"] = teff * blank
    stars["companion_radius"] = radius * blank
    stars["companion_logg"] = surface_gravity(mass, radius) * blank
    stars["companion_flux_ratio_g"] = 10 ** (0.4 * (stars["abs_g"] - magnitude["g"])) * blank
    stars["rv_amplitude_kms"] = np.where(is_binary, amplitude, 0.0)
    for band in ("g", "bp", "rp", "k"):
        light = 10 ** (-0.4 * stars[f"abs_{band}"]) + np.where(
            is_binary, 10 ** (-0.4 * magnitude[band]), 0.0
        )
        stars[f"abs_{band}_system"] = -2.5 * np.log10(light)


def _add_gaia(stars, rng) -> None:
    """What Gaia would list, with errors that grow with magnitude (DR3 medians)."""
    n = stars["teff"].size
    modulus = 5 * np.log10(stars["distance_pc"]) - 5
    true = {band: stars[f"abs_{band}_system"] + modulus for band in ("g", "bp", "rp")}
    faint = np.clip(true["g"], 12.0, 20.0)
    parallax_error = np.interp(
        faint, (12, 15, 16, 17, 18, 19), (0.018, 0.025, 0.04, 0.07, 0.12, 0.24)
    )
    parallax_error = parallax_error * 10 ** (0.06 * rng.standard_normal(n))
    floors = {"g": 0.003, "bp": 0.006, "rp": 0.005}
    growth = {"g": 0.0, "bp": 0.05, "rp": 0.008}
    for band, magnitude in true.items():
        error = np.hypot(floors[band], growth[band] * 10 ** (0.4 * (magnitude - 18.5)))
        stars[f"{band}_mag"] = magnitude + error * rng.standard_normal(n)
        stars[f"e_{band}_mag"] = error
    stars["e_parallax_mas"] = parallax_error
    stars["parallax_mas"] = 1000.0 / stars["distance_pc"] + parallax_error * rng.standard_normal(n)
    motion_error = 1.05 * parallax_error
    stars["pmra_masyr"] = stars["pmra_true"] + motion_error * rng.standard_normal(n)
    stars["pmdec_masyr"] = stars["pmdec_true"] + motion_error * rng.standard_normal(n)
    stars["e_pm_masyr"] = motion_error
    ruwe = 1.0 + 0.05 * rng.standard_normal(n) + rng.exponential(0.03, n)
    # Companions wobble the astrometry most at orbits of a few years, slow ones in this survey.
    wobble = np.where(stars["is_binary"], rng.lognormal(-0.8, 1.1, n), 0.0)
    stars["ruwe"] = np.maximum(ruwe, 0.8) + wobble
    stars["source_id"] = 10**15 + np.arange(n, dtype=np.int64)


def _sample_visits(stars, n_visits, config, rng) -> Columns:
    """Plates, fibres and conditions of every spectrum."""
    star = np.repeat(np.arange(n_visits.size), n_visits)
    n = star.size
    number = np.arange(n) - np.repeat(np.cumsum(n_visits) - n_visits, n_visits)
    magnitude = stars["g_mag"][star]
    # Bright, medium and faint plates differ in exposure (LAMOST: Luo et al. 2015).
    tier = np.digitize(magnitude, (14.0, 16.5))
    exposure = np.array([900.0, 3600.0, 5400.0])[tier]
    n_night = max(8, len(config.visit_shares))
    first = rng.integers(0, n_night, n_visits.size)[star]
    night = (first + number) % n_night
    plate = (stars["field"][star] * 3 + tier) * n_night + night
    unique, inverse = np.unique(plate, return_inverse=True)
    mjd = np.sort(rng.choice(np.arange(55860, 60400), unique.size, replace=unique.size > 4000))
    mjd = mjd[rng.permutation(unique.size)]
    weather = config.transparency * 10 ** rng.normal(0.0, 0.22, unique.size)
    sky_scale = np.where(rng.random(unique.size) < 0.35, rng.uniform(2, 5, unique.size), 1.0)
    helio = 26.0 * np.sin(
        2 * np.pi * (mjd / 365.25)
        + np.radians(stars["ra_deg"][star[np.unique(plate, return_index=True)[1]]])
    )
    placement = 10 ** (0.10 * rng.standard_normal(n))
    spectrograph = rng.integers(0, 16, n)
    phase = rng.uniform(0, 2 * np.pi, n)
    swing = stars["rv_amplitude_kms"][star] * np.sin(phase)
    ratio = np.nan_to_num(stars["companion_mass"][star] / stars["mass"][star], nan=1.0)
    rv = stars["rv_kms"][star] + swing
    companion_rv = stars["rv_kms"][star] - swing / ratio
    return {
        "star": star,
        "visit": number,
        "plate": inverse.astype(np.int64),
        "field": stars["field"][star],
        "tier": tier,
        "night": night,
        "spectrograph": spectrograph,
        "fibre": _free_fibres(inverse, spectrograph, rng),
        "lmjd": mjd[inverse],
        "helio_kms": helio[inverse],
        "exposure_s": exposure,
        "transparency": np.minimum(weather[inverse] * placement, 1.5),
        "sky_scale": sky_scale[inverse],
        "rv_kms": rv,
        "companion_rv_kms": np.where(stars["is_binary"][star], companion_rv, np.nan),
        "failed": stars["failed"][star],
        "failure": rng.choice(np.array(["empty", "no_light", "bad_join"]), size=n),
        "subclass_noise": rng.standard_normal(n),
        "redshift_noise": rng.standard_normal(n),
    }


def _free_fibres(plate, spectrograph, rng) -> np.ndarray:
    """Fibre numbers 0..249, distinct within a plate and spectrograph."""
    place = plate.astype(np.int64) * 16 + spectrograph
    order = np.argsort(place, kind="stable")
    sorted_place = place[order]
    starts = np.flatnonzero(np.r_[True, np.diff(sorted_place) > 0])
    rank = np.arange(place.size) - np.repeat(starts, np.diff(np.r_[starts, place.size]))
    if rank.max(initial=0) >= 250:
        raise UsageError(
            "a plate received more than 250 stars in one spectrograph.", "draw fewer stars a field."
        )
    offset = rng.integers(0, 250, int(sorted_place.max(initial=0)) + 1)
    fibre = np.empty(place.size, dtype=np.int64)
    # Steps of 37 visit all 250 fibres, since the two have no common divisor.
    fibre[order] = (offset[sorted_place] + 37 * rank) % 250
    return fibre


def _sample_pairs(stars, config, rng) -> Columns:
    """Wide FGK primaries of some M dwarfs, with the primary's metallicity as LASP would give it."""
    chosen = np.flatnonzero(
        (rng.random(stars["teff"].size) < config.pair_fraction)
        & (stars["kind"] == "mdwarf")
        & ~stars["failed"]
    )
    n = chosen.size
    separation_au = 10 ** rng.uniform(2.7, 4.3, n)
    separation = np.maximum(separation_au / stars["distance_pc"][chosen], 3.0)
    angle = rng.uniform(0, 2 * np.pi, n)
    e_feh = rng.uniform(0.03, 0.08, n)
    dec = stars["dec_deg"][chosen] + separation / 3600 * np.cos(angle)
    ra = stars["ra_deg"][chosen] + separation / 3600 * np.sin(angle) / np.cos(np.radians(dec))
    return {
        "pair_id": np.arange(n),
        "star": chosen,
        "secondary_source_id": stars["source_id"][chosen],
        "primary_ra_deg": ra % 360,
        "primary_dec_deg": dec,
        "primary_teff": rng.uniform(4800.0, 6600.0, n),
        "primary_feh": stars["mh"][chosen] + e_feh * rng.standard_normal(n),
        "primary_e_feh": e_feh,
        "primary_rv_kms": stars["rv_kms"][chosen] + rng.normal(0.0, 1.5, n),
        "separation_arcsec": separation,
        "r_chance_align": 10 ** rng.uniform(-6.0, -1.5, n),
    }


def dilution(radius: np.ndarray, distance_pc: np.ndarray) -> np.ndarray:
    """(R/d)^2: flux at Earth over flux at the surface."""
    return (radius * _RSUN_CM / (distance_pc * _PC_CM)) ** 2
