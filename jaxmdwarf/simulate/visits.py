"""Visits of stars: plate, fibre and conditions of every exposure of a simulated survey."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.simulate.tables import Columns


@dataclass(frozen=True)
class Visits:
    """What happened at the telescope: one row a spectrum, all arrays of shape (n,).

    Parameters
    ----------
    index : int
        Number of the spectrum in the survey: the key of its noise and its cosmic rays.
    star : int
        Row of the star in the fluxes given to `observe`.
    companion : int
        Row of an unresolved companion, -1 for none.
    rv_kms, companion_rv_kms : float
        Heliocentric velocities.
    dilution, companion_dilution : float
        (R/d)^2: surface flux to flux at Earth.
    helio_kms : float
        Heliocentric correction: the frame of the sky moves by this much.
    plate, spectrograph, fibre : int
        Where it was observed: keys of the calibration.
    exposure_s, transparency, sky_scale : float
        Exposure time, fraction of the nominal light that entered the fibre, sky over dark sky.
    halpha_ew_aa : float
        Equivalent width of Halpha that the star's chromosphere brings, emission positive, Angstrom.
    """

    index: np.ndarray
    star: np.ndarray
    companion: np.ndarray
    rv_kms: np.ndarray
    companion_rv_kms: np.ndarray
    dilution: np.ndarray
    companion_dilution: np.ndarray
    helio_kms: np.ndarray
    plate: np.ndarray
    spectrograph: np.ndarray
    fibre: np.ndarray
    exposure_s: np.ndarray
    transparency: np.ndarray
    sky_scale: np.ndarray
    halpha_ew_aa: np.ndarray

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name).shape for name in self.__dataclass_fields__}
        if len(set(sizes.values())) != 1 or self.index.ndim != 1:
            raise MismatchError(f"columns of the visits differ in shape: {sizes}.")

    def __len__(self) -> int:
        return self.index.size

    def take(self, rows: np.ndarray) -> Visits:
        """The visits at `rows`."""
        return Visits(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})

    @property
    def place(self) -> np.ndarray:
        """One number for each (plate, spectrograph), (n,)."""
        return self.plate.astype(np.int64) * 16 + self.spectrograph

    @property
    def fibre_of_instrument(self) -> np.ndarray:
        """One number for each fibre of the instrument, the same on all plates, (n,)."""
        return self.spectrograph.astype(np.int64) * 250 + self.fibre


def sample_visit_counts(
    n_spectra: int, visit_shares: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """How many spectra each star has, (n_star,), until there are `n_spectra`.

    Parameters
    ----------
    n_spectra : int
    visit_shares : sequence of float
        Relative numbers of stars with 1, 2, 3 ... spectra.
    rng : numpy Generator
    """
    shares = np.asarray(visit_shares) / np.sum(visit_shares)
    counts = rng.choice(np.arange(1, shares.size + 1), size=n_spectra, p=shares)
    n_stars = int(np.searchsorted(np.cumsum(counts), n_spectra)) + 1
    counts = counts[:n_stars]
    counts[-1] -= counts.sum() - n_spectra
    return counts


def sample_visits(
    stars: Columns,
    n_visits: np.ndarray,
    rng: np.random.Generator,
    *,
    transparency: float,
    n_night: int,
) -> Columns:
    """Plates, fibres and conditions of every spectrum.

    Parameters
    ----------
    stars : Columns
        One row a star.
    n_visits : (n_star,) int
        Spectra of each.
    rng : numpy Generator
    transparency : float
        Median share of the nominal light that arrives.
    n_night : int
        Nights on which a field is observed; no star has more visits.

    Returns
    -------
    Columns
        One row a spectrum; velocities are those of the exposure (orbits included), km/s.

    Raises
    ------
    UsageError
        If more stars fall on one plate than it has fibres for.
    """
    star = np.repeat(np.arange(n_visits.size), n_visits)
    n = star.size
    number = np.arange(n) - np.repeat(np.cumsum(n_visits) - n_visits, n_visits)
    magnitude = stars["g_mag"][star]
    # Bright, medium and faint plates differ in exposure (LAMOST: Luo et al. 2015).
    tier = np.digitize(magnitude, (14.0, 16.5))
    exposure = np.array([900.0, 3600.0, 5400.0])[tier]
    first = rng.integers(0, n_night, n_visits.size)[star]
    night = (first + number) % n_night
    plate = (stars["field"][star] * 3 + tier) * n_night + night
    unique, inverse = np.unique(plate, return_inverse=True)
    mjd = np.sort(rng.choice(np.arange(55860, 60400), unique.size, replace=unique.size > 4000))
    mjd = mjd[rng.permutation(unique.size)]
    weather = transparency * 10 ** rng.normal(0.0, 0.22, unique.size)
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
        "fibre": _assign_fibres(inverse, spectrograph, rng),
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


def _assign_fibres(plate, spectrograph, rng) -> np.ndarray:
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
