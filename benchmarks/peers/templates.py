"""Chi-square against templates, the five best of which are combined: as LASPM does.

Du et al. (2021, Res. Astron. Astrophys. 21, 202) with theoretical templates, Du et al. (2024) with
observed ones, both as the paper's section 5.3 describes them.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from benchmarks.peers.common import Estimate, Labeller, Peer, Stars, Training
from jaxmdwarf.models.base import predict_compiled

NAMES = ("teff", "logg", "mh", "alpha_m")
N_BEST = 5

_STARS_AT_ONCE = 64


def match_templates(
    flux: np.ndarray, ivar: np.ndarray, templates: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Labels of stars from the templates that they resemble.

    Parameters
    ----------
    flux, ivar : (n, n_pix)
        Normalised.
    templates : (n_template, n_pix)
    labels : (n_template, n_label)

    Returns
    -------
    (n, n_label)
        Means of the five templates of the smallest chi-square, weighted as the positive linear
        combination of them that fits the star best.
    """
    # sum w (f - t)^2 less what all templates of a star share.
    chi2 = ivar @ (templates**2).T - 2 * (ivar * flux) @ templates.T
    best = np.argpartition(chi2, N_BEST - 1, axis=1)[:, :N_BEST]
    found = np.full((len(flux), labels.shape[1]), np.nan)
    for star, rows in enumerate(best):
        weight = np.sqrt(ivar[star])
        amounts, _ = nnls((weight * templates[rows]).T, weight * flux[star])
        if amounts.sum() > 0:
            found[star] = amounts @ labels[rows] / amounts.sum()
    return found


def _labeller(templates: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> Labeller:
    templates = np.asarray(templates, np.float64)

    def label(stars: Stars) -> Estimate:
        flux, ivar = (np.asarray(part, np.float64) for part in stars.rest[1:])
        size = _STARS_AT_ONCE
        found = np.concatenate(
            [
                match_templates(flux[i : i + size], ivar[i : i + size], templates, labels)
                for i in range(0, len(flux), size)
            ]
        )
        return Estimate(dict(zip(names, found.T, strict=True)))

    return label


def train_on_theory(training: Training, step_k: float) -> Labeller:
    """Templates are at the nodes of a regular grid: those of BT-Settl, or finer ones.

    `step_k` is that of Teff; 100 K comes with 0.25 dex in log g and [M/H]. [alpha/M] follows [M/H]
    as that of models does (paper, section 2.2).
    """
    model, fine = training.emulator, step_k / 100.0
    teff = np.arange(2600.0, 4400.1, step_k)
    logg = np.arange(4.5, 5.501, 0.25 * fine)
    mh = np.arange(-1.5, 0.501, 0.25 * fine)
    nodes = np.stack([axis.ravel() for axis in np.meshgrid(teff, logg, mh)], axis=1)
    labels = np.column_stack([nodes, np.clip(-0.4 * nodes[:, 2], 0.0, 0.4)])
    model.require_labels(NAMES)
    scaled = np.asarray(model.label_space.scale(labels), np.float32)
    return _labeller(np.asarray(predict_compiled(model, scaled)), labels, NAMES)


def train_on_stars(training: Training, option: float) -> Labeller:
    """Templates are the common stars whose median S/N a pixel is above `option`."""
    known = training.known
    good = measure_snr(known.stars) > option
    # Too few bright stars cover no population: the brightest fifth stands in.
    if good.sum() < 2 * N_BEST:
        good = measure_snr(known.stars) >= np.quantile(measure_snr(known.stars), 0.8)
    pixels = known.stars.rest
    # What a template does not know is its continuum.
    flux = np.where(pixels.ivar > 0, pixels.flux, 1.0)[good]
    labels = np.stack(list(known.labels.values()), axis=1)[good]
    return _labeller(flux, labels, tuple(known.labels))


def measure_snr(stars: Stars) -> np.ndarray:
    """Median S/N a pixel, (n,)."""
    flux, ivar = stars.rest[1:]
    return np.nanmedian(np.where(ivar > 0, flux * np.sqrt(ivar), np.nan), axis=1)


THEORY_TEMPLATES = Peer(
    "template chi-square, five best combined (LASPM 2021)",
    "theory",
    "Du et al. (2021)",
    (100.0, 50.0),
    train_on_theory,
)
OBSERVED_TEMPLATES = Peer(
    "the same with observed templates (LASPM 2024)",
    "common stars",
    "Du et al. (2024)",
    (0.0, 30.0, 60.0),
    train_on_stars,
)
