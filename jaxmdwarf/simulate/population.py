"""Stars of a simulated survey: labels, photometry, orbits and visits that belong together.

M dwarfs follow published mass-luminosity-radius-metallicity relations (or any isochrone table), a
disc with thin, thick and halo components, and a magnitude limit. Interstellar extinction is left
out, and so is pre-main-sequence structure: young stars are active, not larger.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from jaxmdwarf.errors import UsageError
from jaxmdwarf.simulate.galaxy import COMPONENTS, add_motion, sample_distance, sample_within_field
from jaxmdwarf.simulate.main_sequence import (
    LOGG_SUN,
    Relation,
    absolute_magnitudes,
    empirical_relation,
    spectral_type,
    surface_gravity,
)
from jaxmdwarf.simulate.tables import Columns
from jaxmdwarf.simulate.visits import sample_visit_counts, sample_visits

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

_ACTIVITY_LIFETIME_GYR = (0.8, 0.8, 1.2, 2.0, 4.5, 7.0, 7.0, 8.0, 8.0, 8.0)
_HALPHA_EW_AA = (1.4, 1.8, 2.2, 3.0, 4.2, 5.5, 7.0, 8.0, 8.0, 8.0)

_PSEUDO_EMISSION_AA = 0.35
"""What the paper's eq. 10 measures at Halpha of simulated stars without a chromosphere: bands and
lines leave a hump there. Published widths of active stars are what was measured, the hump in it."""

_QUIET_TEFF = (2600, 2800, 3030, 3200, 3360, 3500, 3680, 3850, 4050, 4440, 4700, 5100)
_QUIET_ABSORPTION_AA = (0.10, 0.15, 0.20, 0.30, 0.40, 0.48, 0.50, 0.60, 0.68, 0.85, 1.10, 1.40)
"""Halpha in absorption by quiet chromospheres; atmospheres without one show none in dwarfs this
cool. With it they measure as SDSS templates (Bochanski et al. 2007; Kesseli et al. 2017) and quiet
LAMOST stars do: -0.7 to -0.4 at K5, -0.3 at K7, -0.2 at M0, -0.1 at M1 and 0 at M2."""


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
    radius_scatter : float
        Relative scatter of radii of M dwarfs of one mass and [M/H], whose light stays the same:
        spots and magnetic fields inflate stars at constant luminosity. With 0.03 log g scatters by
        0.05 dex about its relation to Teff and [M/H]; with 0, by 0.003.
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
    radius_scatter: float = 0.0

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
        if not 0.0 <= self.radius_scatter < 0.3:
            raise UsageError(
                f"radii cannot scatter by {self.radius_scatter:g} of themselves.",
                "choose radius_scatter of 0 to 0.3; 0.03 is realistic.",
            )

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
    # Each has a stream of its own; more are added at the end, so that surveys of old seeds stay.
    streams = [
        np.random.Generator(np.random.PCG64(child))
        for child in np.random.SeedSequence(seed).spawn(9)
    ]
    stars_rng, kind_rng, orbit_rng, gaia_rng, visit_rng = streams[:5]
    pair_rng, label_rng, rvs_rng, radius_rng = streams[5:]

    n_visits = sample_visit_counts(n_spectra, config.visit_shares, visit_rng)
    n_stars = n_visits.size
    kind = kind_rng.choice(
        np.array(["mdwarf", "kdwarf", "giant"]),
        size=n_stars,
        p=[1 - config.contaminant_fraction, config.k_dwarf_fraction, config.giant_fraction],
    )
    stars = _sample_m_dwarfs(n_stars, config, relation, stars_rng, radius_rng)
    _replace_with_contaminants(stars, kind, config, kind_rng)
    add_motion(stars, stars_rng)
    _add_activity(stars, label_rng)
    _add_companions(stars, config, relation, orbit_rng)
    _add_gaia(stars, gaia_rng)
    _add_gaia_velocities(stars, rvs_rng)
    visits = sample_visits(
        stars,
        n_visits,
        visit_rng,
        transparency=config.transparency,
        n_night=max(8, len(config.visit_shares)),
    )
    pairs = _sample_pairs(stars, config, pair_rng)
    return Population(stars, visits, pairs)


def _sample_m_dwarfs(n, config, relation, rng, radius_rng) -> Columns:
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
        swollen = np.exp(config.radius_scatter * radius_rng.standard_normal(m))
        teff, radius = teff / np.sqrt(swollen), radius * swollen
        magnitude = absolute_magnitudes(teff, radius, mh)
        pointing = rng.integers(0, n_field, m)
        ra, dec = sample_within_field(field_ra[pointing], field_dec[pointing], rng)
        weight, distance = sample_distance(
            magnitude["g"],
            ra,
            dec,
            part,
            rng,
            g_limits=config.g_limits,
            faint_decline=config.faint_decline,
        )
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
    quiet = np.interp(stars["teff"], _QUIET_TEFF, _QUIET_ABSORPTION_AA)
    stars["halpha_absorption_aa"] = np.where(stars["active"], _PSEUDO_EMISSION_AA, quiet)


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


def _add_gaia_velocities(stars, rng) -> None:
    """Velocities of Gaia's spectrometer, NaN of stars that are too faint or too cool for it.

    Limits and median errors are those of Data Release 3 (Katz et al. 2023, A&A 674, A5): magnitude
    14 in the band of the spectrometer, for which G_RP stands here, and 3100 K; 1.3 km/s at
    magnitude 12 and 6.4 km/s at 14.
    """
    magnitude, n = stars["rp_mag"], stars["teff"].size
    slope = np.log10(6.4 / 1.3) / 2.0
    error = np.maximum(1.3 * 10 ** (slope * (magnitude - 12.0)), 0.12)
    listed = (magnitude < 14.0) & (stars["teff"] > 3100.0)
    velocity = stars["rv_kms"] + error * rng.standard_normal(n)
    n_transit = np.maximum(rng.poisson(17.0, n), 2)
    stars["gaia_rv_kms"] = np.where(listed, velocity, np.nan)
    stars["gaia_e_rv_kms"] = np.where(listed, error, np.nan)
    stars["gaia_n_transit"] = np.where(listed, n_transit, 0)


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
