"""A simulated survey: a population observed, batch by batch, with the truth beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from jaxmdwarf.errors import UsageError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.lsf import FWHM_OF_SIGMA, apply_lsf, lsf_weights
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.simulate.instrument import NATIVE_GRID, RESOLUTION
from jaxmdwarf.simulate.main_sequence import Relation, dilution, empirical_relation, spectral_type
from jaxmdwarf.simulate.observation import (
    SNR_I_RANGE_AA,
    SNR_R_RANGE_AA,
    SNR_R_RATIO,
    make_sampler,
    observe,
)
from jaxmdwarf.simulate.population import Population, PopulationConfig, sample_population
from jaxmdwarf.simulate.tables import Columns
from jaxmdwarf.simulate.visits import Visits
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS, PixelGrid, is_within

THEORY_GRID = PixelGrid.linear(5940.0, 8960.0, 1.0)
"""Pixels of the training grid: the paper's, with 60 more on both sides for the continuum."""

Synthesizer = Callable[[np.ndarray], np.ndarray]
"""Labels (n, 4) [Teff, log g, [M/H], [alpha/M]] -> surface fluxes (n, n_wave)."""

LASP_VELOCITY_BIAS_KMS, LASP_VELOCITY_SCATTER_KMS = -5.0, 11.0
"""How wrong header velocities are: the survey pipeline against Gaia (paper, section 2.3)."""


@dataclass(frozen=True)
class SurveyConfig:
    """A simulated survey.

    Parameters
    ----------
    n_spectra : int
        Number of spectra (stars are fewer: some are visited again).
    seed : int
        The same seed gives the same survey.
    gap : DomainGap
        How nature differs from theory.
    population : PopulationConfig
    stars_per_batch : int
        Stars synthesised at a time; bounds the memory (about 0.2 MB a star), changes nothing else.
    reference_share : float
        Share of the good single M dwarfs that have labels in the literature.
    """

    n_spectra: int = 10_000
    seed: int = 0
    gap: DomainGap = field(default_factory=DomainGap.full)
    population: PopulationConfig = field(default_factory=PopulationConfig)
    stars_per_batch: int = 256
    reference_share: float = 0.10


@dataclass(frozen=True)
class SurveyBatch:
    """Spectra of one batch, as a survey's files would hold them.

    Parameters
    ----------
    rows : (n,) int
        Rows of the survey's truth table.
    flux, ivar : (n, n_pix) float32
        On `NATIVE_GRID`; bad pixels have ivar 0.
    mask : (n, n_pix) uint8
        1 where the pipeline knows a pixel to be bad.
    noiseless : (n, n_pix) float32
        The same without noise, sky residuals, cosmic rays and dead pixels.
    snr_r, snr_i : (n,)
        As the header quotes them, from flux and stated ivar; NaN where the spectrum failed.
    true_snr_r, true_snr_i : (n,)
        From the noise-free flux and the true noise.
    """

    rows: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray
    noiseless: np.ndarray
    snr_r: np.ndarray
    snr_i: np.ndarray
    true_snr_r: np.ndarray
    true_snr_i: np.ndarray


@dataclass(frozen=True)
class Survey:
    """A survey whose stars are drawn and whose spectra are made on demand.

    Parameters
    ----------
    config : SurveyConfig
    population : Population
        Stars, visits and pairs.
    """

    config: SurveyConfig
    population: Population

    @property
    def n_spectra(self) -> int:
        """Number of spectra."""
        return self.population.visits["star"].size

    @property
    def n_synthetic(self) -> int:
        """Number of surface spectra that have to be computed (stars and companions)."""
        stars = self.population.stars
        return int(stars["teff"].size + stars["is_binary"].sum())

    def batches(
        self, synthesize: Synthesizer, wave_aa: np.ndarray, *, skip: int = 0
    ) -> Iterator[SurveyBatch]:
        """Observe the survey, star after star; all visits of a star come in one batch.

        Parameters
        ----------
        synthesize : callable
            Nature: labels to surface fluxes.
        wave_aa : (n_wave,)
            Fine wavelengths of those fluxes.
        skip : int
            Batches to leave out at the beginning; the others are the same without them.
        """
        stars, visits = self.population.stars, self.population.visits
        sampler = make_sampler(wave_aa, self.config.gap)
        size = self.config.stars_per_batch
        for first in range(skip * size, stars["teff"].size, size):
            group = np.arange(first, min(first + size, stars["teff"].size))
            rows = np.flatnonzero((visits["star"] >= group[0]) & (visits["star"] <= group[-1]))
            double = group[stars["is_binary"][group]]
            flux = synthesize(
                np.concatenate(
                    [_labels_of(stars, group), _labels_of(stars, double, companion=True)]
                )
            )
            companion = np.full(group.size, -1)
            companion[double - first] = np.arange(double.size)
            seen = observe(
                wave_aa,
                flux[: group.size],
                self._visits(rows, first, companion),
                gap=self.config.gap,
                seed=self.config.seed,
                companion_flux=flux[group.size :] if double.size else None,
                sampler=sampler,
            )
            yield self._deliver(rows, seen)

    def _visits(self, rows, first_star, companion) -> Visits:
        stars, table = self.population.stars, self.population.visits
        star = table["star"][rows]
        blank = np.zeros(rows.size)
        is_binary = stars["is_binary"][star]
        distance = stars["distance_pc"][star]
        companion_radius = np.where(is_binary, stars["companion_radius"][star], 0.0)
        return Visits(
            index=rows,
            star=star - first_star,
            companion=companion[star - first_star],
            rv_kms=table["rv_kms"][rows],
            companion_rv_kms=np.where(is_binary, table["companion_rv_kms"][rows], blank),
            dilution=dilution(stars["radius"][star], distance),
            companion_dilution=dilution(companion_radius, distance),
            helio_kms=table["helio_kms"][rows],
            plate=table["plate"][rows],
            spectrograph=table["spectrograph"][rows],
            fibre=table["fibre"][rows],
            exposure_s=table["exposure_s"][rows],
            transparency=table["transparency"][rows],
            sky_scale=table["sky_scale"][rows],
            halpha_ew_aa=stars["halpha_ew_aa"][star] - stars["halpha_absorption_aa"][star],
        )

    def _deliver(self, rows, seen) -> SurveyBatch:
        flux, ivar, mask = seen.flux, seen.ivar, seen.mask
        table = self.population.visits
        failed = np.flatnonzero(table["failed"][rows])
        for row in failed:
            _spoil(flux[row], ivar[row], seen.noiseless[row], str(table["failure"][rows[row]]))
        snr = flux * np.sqrt(ivar)
        snr_r, snr_i = (
            _median_of_good(snr, ivar, bounds) for bounds in (SNR_R_RANGE_AA, SNR_I_RANGE_AA)
        )
        snr_r = snr_r / SNR_R_RATIO
        empty = ~(ivar > 0).any(axis=1)
        snr_r[empty] = snr_i[empty] = np.nan
        return SurveyBatch(
            rows=rows,
            flux=flux,
            ivar=ivar,
            mask=mask,
            noiseless=seen.noiseless,
            snr_r=snr_r,
            snr_i=snr_i,
            true_snr_r=seen.snr_r,
            true_snr_i=seen.snr_i,
        )

    def truth(self) -> Columns:
        """Truth and bookkeeping, one row a spectrum, in the order of `SurveyBatch.rows`."""
        stars, visits = self.population.stars, self.population.visits
        star = visits["star"]
        of_star = {
            name: stars[name][star]
            for name in (
                "source_id",
                "ra_deg",
                "dec_deg",
                "kind",
                "component",
                "teff",
                "logg",
                "mh",
                "alpha_m",
                "mass",
                "radius",
                "distance_pc",
                "age_gyr",
                "spt",
                "active",
                "is_binary",
                "companion_teff",
                "companion_logg",
                "companion_flux_ratio_g",
            )
        }
        emission = self.config.gap.chromosphere * stars["halpha_ew_aa"][star]
        return {
            "obsid": self.obsid(),
            "file": self.file_names(),
            **of_star,
            "halpha_ew_aa": emission,
            "rv_kms": visits["rv_kms"],
            "companion_rv_kms": visits["companion_rv_kms"],
            "visit": visits["visit"],
            "plate": visits["plate"],
            "spectrograph": visits["spectrograph"] + 1,
            "fibre": visits["fibre"] + 1,
            "lmjd": visits["lmjd"],
            "helio_kms": visits["helio_kms"],
            "exposure_s": visits["exposure_s"],
            "transparency": visits["transparency"],
            "failed": visits["failed"],
            "failure": np.where(visits["failed"], visits["failure"], ""),
            "ivar_factor": np.full(star.size, self.config.gap.ivar_factor),
            "subclass": self.subclasses(),
            "header_z": self.header_redshifts(),
        }

    def obsid(self) -> np.ndarray:
        """Unique numbers of the spectra: plate, spectrograph and fibre."""
        visits = self.population.visits
        return (
            (visits["plate"] + 1) * 100_000
            + (visits["spectrograph"] + 1) * 1000
            + visits["fibre"]
            + 1
        ).astype(np.int64)

    def plan_ids(self) -> np.ndarray:
        """Plate names in LAMOST's manner: field, then V, B or M for bright to faint."""
        visits = self.population.visits
        tier = np.array(["V", "B", "M"])[visits["tier"]]
        return np.array(
            [
                f"SIM{field:05d}{letter}{night + 1:02d}"
                for field, letter, night in zip(visits["field"], tier, visits["night"], strict=True)
            ]
        )

    def file_names(self) -> np.ndarray:
        """File names as LAMOST gives them."""
        visits = self.population.visits
        rows = zip(
            visits["lmjd"],
            self.plan_ids(),
            visits["spectrograph"] + 1,
            visits["fibre"] + 1,
            strict=True,
        )
        return np.array(
            [f"spec-{mjd}-{plan}_sp{sp:02d}-{fibre:03d}.fits.gz" for mjd, plan, sp, fibre in rows]
        )

    def subclasses(self) -> np.ndarray:
        """The survey pipeline's classes: right to 0.7 subtypes, K dwarfs often called M."""
        stars, visits = self.population.stars, self.population.visits
        star = visits["star"]
        noisy = spectral_type(stars["teff"][star]) + 0.7 * visits["subclass_noise"]
        subtype = np.clip(np.round(noisy), 0, 9).astype(int)
        kind = stars["kind"][star]
        names = np.array([f"dM{value}" for value in subtype])
        names = np.where(kind == "giant", np.array([f"gM{value}" for value in subtype]), names)
        early = (kind == "kdwarf") & (visits["subclass_noise"] > -0.3)
        return np.where(early, np.where(noisy < -1.2, "K5", "K7"), names)

    def header_redshifts(self) -> np.ndarray:
        """Header Z: heliocentric v/c with the survey pipeline's errors, NaN for failed spectra."""
        visits = self.population.visits
        velocity = (
            visits["rv_kms"]
            + LASP_VELOCITY_BIAS_KMS
            + LASP_VELOCITY_SCATTER_KMS * visits["redshift_noise"]
        )
        return np.where(visits["failed"], np.nan, velocity / SPEED_OF_LIGHT_KMS)

    def gaia(self) -> Columns:
        """A Gaia-like catalogue, one row a star, without the truth."""
        stars = self.population.stars
        names = {
            "source_id": "source_id",
            "ra_deg": "ra_deg",
            "dec_deg": "dec_deg",
            "parallax_mas": "parallax_mas",
            "e_parallax_mas": "e_parallax_mas",
            "pmra_masyr": "pmra_masyr",
            "pmdec_masyr": "pmdec_masyr",
            "e_pm_masyr": "e_pm_masyr",
            "g_mag": "g_mag",
            "e_g_mag": "e_g_mag",
            "bp_mag": "bp_mag",
            "e_bp_mag": "e_bp_mag",
            "rp_mag": "rp_mag",
            "e_rp_mag": "e_rp_mag",
            "ruwe": "ruwe",
            "radial_velocity": "gaia_rv_kms",
            "radial_velocity_error": "gaia_e_rv_kms",
            "rv_nb_transits": "gaia_n_transit",
        }
        return {new: stars[old] for new, old in names.items()}

    def references(self) -> Columns:
        """Literature labels of some bright stars, with errors like those of the paper's sources.

        What co-distributed sampling and the external comparison may know of the truth: Teff to
        60 K, log g to 0.05 dex, [M/H] to 0.08 dex.
        """
        stars = self.population.stars
        rng = _generator(self.config.seed, "references")
        n = stars["teff"].size
        bright = np.clip(1.6 - 0.2 * (stars["g_mag"] - 12.0), 0.2, 1.6)
        wanted = rng.random(n) < self.config.reference_share * bright
        noise = rng.standard_normal((3, n))
        rows = np.flatnonzero(
            wanted & (stars["kind"] == "mdwarf") & ~stars["is_binary"] & ~stars["failed"]
        )
        table: Columns = {name: stars[name][rows] for name in ("source_id", "ra_deg", "dec_deg")}
        for k, (name, error) in enumerate((("teff", 60.0), ("logg", 0.05), ("mh", 0.08))):
            table[name] = stars[name][rows] + error * noise[k, rows]
            table[f"e_{name}"] = np.full(rows.size, error)
        return table

    def wide_pairs(self) -> Columns:
        """FGK primaries of wide pairs, one row a pair."""
        return {name: values for name, values in self.population.pairs.items() if name != "star"}


@dataclass(frozen=True)
class TheoryGrid:
    """Theoretical spectra on the survey's resolution, ready to train an emulator.

    Parameters
    ----------
    labels : (n, 4) float64
        Teff, log g, [M/H], [alpha/M].
    flux : (n, n_pix) float32
        Surface flux, erg s^-1 cm^-2 Angstrom^-1.
    grid : PixelGrid
    """

    labels: np.ndarray
    flux: np.ndarray
    grid: PixelGrid


def simulate_survey(config: SurveyConfig, *, relation: Relation = empirical_relation) -> Survey:
    """Draw the stars and visits of a survey; spectra are made by `Survey.batches`.

    Parameters
    ----------
    config : SurveyConfig
    relation : callable
        Main sequence; see `jaxmdwarf.simulate.main_sequence`.

    Examples
    --------
    >>> survey = simulate_survey(SurveyConfig(n_spectra=50, seed=1))
    >>> survey.n_spectra, len(np.unique(survey.obsid()))
    (50, 50)
    """
    population = sample_population(
        config.n_spectra, seed=config.seed, config=config.population, relation=relation
    )
    return Survey(config, population)


def _labels_of(stars: Columns, rows: np.ndarray, *, companion: bool = False) -> np.ndarray:
    """Labels (n, 4) of stars at `rows`, or of their companions, which share their chemistry."""
    names = ("companion_teff", "companion_logg") if companion else ("teff", "logg")
    return np.stack([stars[name][rows] for name in (*names, "mh", "alpha_m")], axis=1)


def sample_grid_labels(n: int, *, space: LabelSpace | None = None, seed: int = 0) -> np.ndarray:
    """Labels (n, 4) of a training grid: a scrambled Sobol sequence, [alpha/M] tied to [M/H].

    Parameters
    ----------
    n : int
        Number of spectra; powers of two fill the space best.
    space : LabelSpace, optional
        Bounds; `LabelSpace.mdwarf()` by default.
    seed : int

    Notes
    -----
    [alpha/M] covers 0.25 dex on both sides of the trend 0 at solar to 0.4 at [M/H] <= -1, which
    includes the grid of the paper (section 2.2).

    Examples
    --------
    >>> labels = sample_grid_labels(16)
    >>> bool(LabelSpace.mdwarf().contains(labels).all())
    True
    """
    from scipy.stats import qmc

    if n < 1:
        raise UsageError(f"a grid of {n} spectra was asked for.", "ask for at least one.")
    space = space or LabelSpace.mdwarf()
    exponent = int(np.ceil(np.log2(max(n, 2))))
    unit = qmc.Sobol(4, seed=np.random.default_rng(seed)).random_base2(exponent)[:n]
    lower, upper = np.asarray(space.lower), np.asarray(space.upper)
    labels = lower + unit * (upper - lower)
    trend = np.clip(-0.4 * labels[:, 2], 0.0, 0.4)
    labels[:, 3] = np.clip(trend + 0.5 * (unit[:, 3] - 0.5), lower[3], upper[3])
    return labels


def paper_grid_labels() -> np.ndarray:
    """Labels (1152, 4) of the BT-Settl subgrid of the paper (section 2.2)."""
    rows = [
        (teff, logg, mh, alpha)
        for teff in np.arange(2500.0, 4001.0, 100.0)
        for logg in (4.5, 5.0, 5.5)
        for mh in np.arange(-3.0, 0.51, 0.5)
        for alpha in np.array([-0.2, 0.0, 0.2]) + (0.0 if mh >= 0 else 0.2 if mh >= -0.5 else 0.4)
    ]
    return np.array(rows)


def theory_grid(
    labels: np.ndarray,
    synthesize: Synthesizer,
    wave_aa: np.ndarray,
    *,
    grid: PixelGrid | None = None,
    resolution: float = RESOLUTION,
    native_pixels: bool = True,
    batch_size: int = 128,
) -> TheoryGrid:
    """Theoretical spectra as the survey would see them, at rest and without noise.

    Parameters
    ----------
    labels : (n, 4)
    synthesize : callable
        Theory: labels to surface fluxes.
    wave_aa : (n_wave,)
        Fine wavelengths of those fluxes.
    grid : PixelGrid, optional
        Output pixels; the paper's with 60 more on both sides by default, so that continuum
        windows and velocity shifts find data.
    resolution : float
        Resolving power of the line-spread function.
    native_pixels : bool
        Broaden further by the survey's own pixels: an observed spectrum is averaged over a native
        pixel and spread over its width again when it is resampled.
    batch_size : int
        Spectra held on fine wavelengths at a time.
    """
    grid = grid or THEORY_GRID
    weights = lsf_weights(
        wave_aa,
        grid,
        resolution=effective_resolution(grid, resolution, native_pixels=native_pixels),
    )
    flux = np.empty((len(labels), grid.n_pix), dtype=np.float32)
    for start in range(0, len(labels), batch_size):
        rows = slice(start, start + batch_size)
        flux[rows] = apply_lsf(np.asarray(synthesize(labels[rows])), weights)
    return TheoryGrid(np.asarray(labels, dtype=np.float64), flux, grid)


def effective_resolution(
    grid: PixelGrid, resolution: float, *, native_pixels: bool = True
) -> np.ndarray:
    """Resolving power at each pixel of `grid` of spectra resampled from native pixels, (n_pix,).

    Averaging over a native pixel and taking the flux as constant over it when it is resampled each
    add a twelfth of its squared width to the variance of the line-spread function.

    Parameters
    ----------
    grid : PixelGrid
    resolution : float
        Resolving power of the line-spread function.
    native_pixels : bool
        Whether spectra were resampled from the pixels of the survey.
    """
    wave = grid.wave_aa
    variance = (wave / (resolution * FWHM_OF_SIGMA)) ** 2
    if native_pixels:
        variance = variance + 2 * (wave * NATIVE_GRID.step) ** 2 / 12
    return wave / (FWHM_OF_SIGMA * np.sqrt(variance))


def _generator(seed: int, purpose: str) -> np.random.Generator:
    entropy = [seed, *purpose.encode()]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def _median_of_good(values, ivar, bounds) -> np.ndarray:
    within = is_within(NATIVE_GRID.wave_aa, bounds)
    good = np.where(ivar[:, within] > 0, values[:, within], np.nan)
    filled = np.isfinite(good).any(axis=1)
    median = np.full(values.shape[0], np.nan)
    median[filled] = np.nanmedian(good[filled], axis=1)
    return median


def _spoil(flux, ivar, noiseless, failure: str) -> None:
    """Turn a spectrum into one of the failures that survey folders hold, in place."""
    wave = NATIVE_GRID.wave_aa
    if failure == "empty":
        flux[:], ivar[:], noiseless[:] = 0.0, 0.0, 0.0
    elif failure == "no_light":
        flux -= noiseless
        noiseless[:] = 0.0
    else:
        # Two pieces of the arm put together at wrong levels, with the ripple of a bad flat field.
        join = np.where(wave < 7100.0, 1.8, 0.6) * (1 + 0.25 * np.sin(wave / 9.0))
        flux *= join.astype(np.float32)
        ivar /= join.astype(np.float32) ** 2
        noiseless *= join.astype(np.float32)
