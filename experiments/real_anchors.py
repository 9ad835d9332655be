"""Public labelled spectra of M dwarfs, and the literature's scales that their labels are put on.

Temperatures are those of Mann et al. (2015, ApJ 804 64; 2016 erratum), by spectral type on the
system of that paper. Metallicities of templates are those of their bins, of subdwarfs those of
their classes. No spectrum of a star of the tables is at hand, so that no label is a star's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from astropy import units as u
from astropy.coordinates import SkyCoord

from jaxmdwarf.io.spectra.readers import read_spectra
from jaxmdwarf.io.spectra.records import Requirements
from jaxmdwarf.measure.indices import measure_indices
from jaxmdwarf.measure.spectral_type import read_subtypes
from jaxmdwarf.models.priors import RelationPrior
from jaxmdwarf.spectra import RawSpectrum
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS, PixelGrid, doppler_factor

SURVEY_PIXELS = PixelGrid.logarithmic(5905.0, 8995.0, 1e-4 * float(np.log(10.0)))
"""Pixels of the SDSS and of LAMOST, which templates were drawn from and are put back on."""

SPECTRUM_NOISE, TEMPLATE_ERROR = 0.035, 0.01
"""Relative errors of a pixel of a single spectrum of a template, and of a mean of very many."""

RED_AA = (5940.0, 8960.0)
"""What a spectrum must show, as far as a fit does."""

BIN_WIDTH, BIN_NOISE = 0.25, 0.20
"""Scatter (dex) of [Fe/H] of M dwarfs nearby (Gaidos et al. 2014, MNRAS 443 2561: 0.21 about -0.05,
stars of the bins being chosen from a deeper and wider sample), and of one estimate of it from an
optical spectrum (Mann et al. 2013, AJ 145 52)."""

MEAN_FEH = -0.05

CLASS_MH: Mapping[str, float] = {"sd": -0.5, "esd": -1.5, "usd": -2.0}
"""[Fe/H] of classes of subdwarfs, +- 0.5: Lodieu et al. (2019, A&A 628 A61)."""

CLASS_TEFF: Mapping[str, tuple[float, float]] = {
    "sd": (3700.0, 2600.0),
    "esd": (3800.0, 2900.0),
    "usd": (3700.0, 2900.0),
}
"""Teff of subtypes 0 and 9.5 of a class: the ranges that Lodieu et al. (2019) give for M0 to M9.5;
we take what is between them for linear."""

TEFF_SCATTER, TYPE_SCATTER = 61.0, 0.21
"""K about the relation of Teff to type and [Fe/H]; subtypes about that of type to band indices."""

CLASS_TEFF_ERROR, CLASS_MH_ERROR = 150.0, 0.4


@dataclass(frozen=True)
class Anchor:
    """A spectrum, and what is said of it.

    Parameters
    ----------
    name : str
    source : {"pyhammer", "bochanski", "lepine", "lamost", "sdss"}
    spectrum : RawSpectrum
        Vacuum wavelengths.
    kind : {"d", "sd", "esd", "usd"}
        Class: dwarf or subdwarf.
    header_type : float
        Subtype as whoever made the spectrum says; NaN where nobody does.
    feh_bin : float
        Centre of the bin in [Fe/H] that the template is of; NaN where there is none.
    """

    name: str
    source: str
    spectrum: RawSpectrum
    kind: str
    header_type: float
    feh_bin: float = np.nan

    @property
    def is_template(self) -> bool:
        """Whether it is a mean of stars."""
        return self.source in ("pyhammer", "bochanski")


def read_anchors(data: Path) -> list[Anchor]:
    """All labelled spectra of a folder; K7 to M7, what is later has no label on this scale.

    Parameters
    ----------
    data : Path
        With the files that the README of the test data lists.
    """
    return [
        *_read_pyhammer(data / "pyhammer_KM_templates_5900_9000_vac.npz"),
        *_read_bochanski(data / "bochanski2007_M0_M9_vac.npz"),
        *_read_lepine(data / "lepine2007_subdwarfs_air.npz"),
        *_read_survey(sorted((data / "lamost").glob("*.fits*")), "lamost"),
        *_read_survey(sorted(data.glob("sdss_spec-*.fits*")), "sdss"),
    ]


def _read_pyhammer(path: Path) -> list[Anchor]:
    """Templates of Kesseli et al. (2017, ApJS 230 16)."""
    archive, found = np.load(path), []
    for name in (key.removesuffix("|flux") for key in archive.files if key.endswith("|flux")):
        parts = re.fullmatch(r"([KM])(\d)_([+-]\d\.\d)_Dwarf", name)
        if parts is None or (parts[1] == "M" and int(parts[2]) > 7):
            continue
        made = re.search(r"made from (\d+)", str(archive[f"{name}|comment"]))
        noise = SPECTRUM_NOISE / np.sqrt(int(made[1])) if made else SPECTRUM_NOISE
        error = max(TEMPLATE_ERROR, noise)
        spectrum = _rebin(name, archive["wave_vac"], archive[f"{name}|flux"], error=error)
        subtype = -1.0 if parts[1] == "K" else float(parts[2])
        found.append(Anchor(name, "pyhammer", spectrum, "d", subtype, float(parts[3])))
    return found


def _read_bochanski(path: Path) -> list[Anchor]:
    """Templates of Bochanski et al. (2007, AJ 133 531)."""
    archive, found = np.load(path), []
    for name in archive.files:
        subtype = int(name[1:3]) / 10
        if subtype <= 7:
            wave, flux, _ = archive[name].T
            found.append(
                Anchor(
                    name, "bochanski", _rebin(name, wave, flux, error=TEMPLATE_ERROR), "d", subtype
                )
            )
    return found


def _read_lepine(path: Path) -> list[Anchor]:
    """Subdwarfs of Lepine et al. (2007, ApJ 669 1235), in air."""
    archive, found = np.load(path), []
    for name in archive.files:
        parts = re.match(r"(u?e?sd)M(\d)(\d)_", name)
        wave, flux, _ = archive[name].T
        good = np.isfinite(flux) & (flux > 0)
        sigma = np.where(good, 0.02 * np.median(flux[good]), np.inf)
        spectrum = RawSpectrum.from_arrays(
            wave.astype(np.float64),
            np.where(good, flux, 0.0),
            np.where(good, 1 / sigma**2, 0.0),
            medium="air",
            obsid=name,
        )
        if parts is not None:
            subtype = int(parts[2]) + int(parts[3]) / 10
            found.append(Anchor(name, "lepine", spectrum, parts[1], subtype))
    return found


def _read_survey(paths: list[Path], source: str) -> list[Anchor]:
    """Stars of a survey that its pipeline calls M dwarfs."""
    found = []
    for path in paths:
        for spectrum in read_spectra(path, requirements=Requirements(window_aa=RED_AA)):
            # A reject is no spectrum; who is no M dwarf has no subtype.
            if isinstance(spectrum, RawSpectrum):
                subtype = float(read_subtypes([spectrum.meta.subclass.split(" ")[0]])[0])
                if subtype >= 0:
                    found.append(Anchor(path.name, source, spectrum, "d", subtype))
    return found


def _rebin(name: str, wave: np.ndarray, flux: np.ndarray, *, error: float) -> RawSpectrum:
    """A finely resampled template on a survey's pixels, with one relative error for all of them.

    What templates state is the scatter of the stars that they are made of, or noise of pixels
    that are ten times as fine as those of the instrument.
    """
    width = np.gradient(np.asarray(wave, np.float64))
    total = np.concatenate([[0.0], np.cumsum(np.nan_to_num(flux) * width)])
    edges = np.concatenate([[wave[0] - 0.5 * width[0]], wave + 0.5 * width])
    inside = np.diff(np.interp(SURVEY_PIXELS.edges_aa, edges, total)) / SURVEY_PIXELS.widths_aa
    sigma = error * np.abs(inside) + 0.1 * error * np.median(inside)
    return RawSpectrum.from_arrays(SURVEY_PIXELS.wave_aa, inside, sigma=sigma, obsid=name)


@dataclass(frozen=True)
class Scales:
    """Relations of the literature's tables, fitted here.

    Parameters
    ----------
    data : Path
        With ``mann15.stars.csv`` and ``gaidos14.csv``.
    """

    data: Path

    @cached_property
    def mann(self) -> pd.DataFrame:
        """Stars of Mann et al. (2015) with a type."""
        table = pd.read_csv(self.data / "mann15.stars.csv")
        return table[table["SpTnum"].notna()].reset_index(drop=True)

    @cached_property
    def teff_coefficients(self) -> np.ndarray:
        """Of 1, type, type^2 and [Fe/H], by least squares on the stars of Mann et al. (2015)."""
        design = _design_teff(self.mann["SpTnum"].to_numpy(), self.mann["[Fe/H]"].to_numpy())
        return np.linalg.lstsq(design, self.mann["Teff"].to_numpy(), rcond=None)[0]

    def find_teff(self, subtype: np.ndarray, feh: np.ndarray) -> np.ndarray:
        """Teff in K of types on the system of Mann et al. (2015)."""
        return _design_teff(subtype, feh) @ self.teff_coefficients

    @cached_property
    def type_coefficients(self) -> np.ndarray:
        """Of the terms of `_design_type`, on stars that have types there and indices elsewhere.

        Indices are those of Gaidos et al. (2014), of stars within 30 arcsec; far ones are left out.
        """
        gaidos = pd.read_csv(self.data / "gaidos14.csv")
        places = SkyCoord(
            gaidos["RAJ2000"].tolist(), gaidos["DEJ2000"].tolist(), unit=(u.hourangle, u.deg)
        )
        wanted = SkyCoord(self.mann["RAJ2000"], self.mann["DEJ2000"], unit=u.deg)
        rows, distance, _ = wanted.match_to_catalog_sky(places)
        indices = [
            pd.to_numeric(gaidos[name], errors="coerce").to_numpy()[rows]
            for name in ("TiO5", "CaH2", "CaH3")
        ]
        good = np.isfinite(indices).all(axis=0) & (distance < 30 * u.arcsec)
        design = _design_type(*(index[good] for index in indices))
        subtype = self.mann["SpTnum"].to_numpy()[good]
        kept = np.ones(len(subtype), bool)
        for _ in range(5):
            solved = np.linalg.lstsq(design[kept], subtype[kept], rcond=None)[0]
            away = subtype - design @ solved
            kept = np.abs(away) < 3 * away[kept].std()
        return solved

    def measure_type(self, spectrum: RawSpectrum, rv_kms: float = 0.0) -> float:
        """Subtype of a dwarf on the system of Mann et al. (2015), from TiO5, CaH2 and CaH3."""
        found = measure_indices(
            ("tio5", "cah2", "cah3"),
            spectrum.wave_aa,
            spectrum.flux[None],
            spectrum.ivar[None],
            stretch=doppler_factor(np.array([rv_kms])),
        )
        indices = (found[name].value for name in ("tio5", "cah2", "cah3"))
        return float((_design_type(*indices) @ self.type_coefficients)[0])


def _design_teff(subtype: np.ndarray, feh: np.ndarray) -> np.ndarray:
    subtype, feh = np.broadcast_arrays(subtype, feh)
    return np.stack([np.ones_like(feh), subtype, subtype**2, feh], axis=-1)


def _design_type(tio5: np.ndarray, cah2: np.ndarray, cah3: np.ndarray) -> np.ndarray:
    x = tio5 - 0.6
    return np.stack([np.ones_like(x), x, x**2, cah2 - 0.55, cah3 - 0.78], axis=-1)


@dataclass(frozen=True)
class AnchorLabels:
    """Labels of anchors in the order of `jaxmdwarf.labels.LabelSpace.mdwarf`.

    Parameters
    ----------
    values : (n, 4)
        Teff (K), log g, [M/H], [alpha/M].
    covariance : (n, 4, 4)
        Of the errors of Teff and [M/H]; infinite variance for the others, which the relations tell.
    header_teff : (n,)
        Teff of the types as they are stated, on the same scale; NaN for subdwarfs.
    subtype : (n,)
        Types on the system of Mann et al. (2015); those of their class for subdwarfs.
    """

    values: np.ndarray
    covariance: np.ndarray
    header_teff: np.ndarray
    subtype: np.ndarray


def label_anchors(
    anchors: list[Anchor], scales: Scales, relations: tuple[RelationPrior, ...]
) -> AnchorLabels:
    """Labels of the literature and their errors.

    The mean of a bin in [Fe/H] is not its centre, for estimates scatter more than bins are wide: it
    is drawn to the mean of all stars. From M5 on the bands of templates do not differ from bin to
    bin; nothing is taken to be known there but that they are dwarfs. Types are measured from the
    bands, as those of the templates are whole numbers on another system (M5 is M4.4 here).
    """
    n = len(anchors)
    values, covariance = np.zeros((n, 4)), np.zeros((n, 4, 4))
    header, subtypes = np.full(n, np.nan), np.full(n, np.nan)
    share = BIN_WIDTH**2 / (BIN_WIDTH**2 + BIN_NOISE**2)
    for row, anchor in enumerate(anchors):
        if anchor.kind == "d":
            slope = scales.teff_coefficients[3]
            rv_kms = SPEED_OF_LIGHT_KMS * np.nan_to_num(anchor.spectrum.meta.z)
            subtype = scales.measure_type(anchor.spectrum, rv_kms)
            mh, e_mh = MEAN_FEH, BIN_WIDTH
            if np.isfinite(anchor.feh_bin) and anchor.header_type < 5:
                mh = MEAN_FEH + share * (anchor.feh_bin - MEAN_FEH)
                e_mh = BIN_WIDTH * np.sqrt(1 - share)
            elif anchor.source == "bochanski":
                e_mh = 0.15
            teff = float(scales.find_teff(np.array(subtype), np.array(mh)))
            header[row] = scales.find_teff(np.array(anchor.header_type), np.array(mh))
            own = abs(scales.teff_coefficients[1]) * TYPE_SCATTER
            e_teff = own if anchor.is_template else np.hypot(own, TEFF_SCATTER)
        else:
            subtype, (first, last) = anchor.header_type, CLASS_TEFF[anchor.kind]
            teff = first + (last - first) * subtype / 9.5
            mh, e_mh, e_teff = CLASS_MH[anchor.kind], CLASS_MH_ERROR, CLASS_TEFF_ERROR
            slope = 0.0  # of their relation nothing is known
        subtypes[row] = subtype
        values[row] = teff, 0.0, mh, 0.0
        covariance[row] = np.diag([e_teff**2 + (slope * e_mh) ** 2, np.inf, e_mh**2, np.inf])
        covariance[row, 0, 2] = covariance[row, 2, 0] = slope * e_mh**2
    known = {"teff": values[:, 0], "mh": values[:, 2]}
    for relation, column in zip(relations, (1, 3), strict=True):
        values[:, column] = evaluate_relation(relation, known)
    return AnchorLabels(values, covariance, header, subtypes)


def evaluate_relation(relation: RelationPrior, known: Mapping[str, np.ndarray]) -> np.ndarray:
    """What a relation expects of stars with these labels, physical units."""
    xs = [
        (known[name] - centre) / scale
        for name, centre, scale in zip(relation.given, relation.centre, relation.scale, strict=True)
    ]
    return sum(
        coefficient * np.prod([x**power for x, power in zip(xs, powers, strict=True)], axis=0)
        for coefficient, powers in zip(relation.coefficients, relation.powers, strict=True)
    )
