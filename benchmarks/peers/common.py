"""What every peer is given and returns, and how it is tuned: never on stars that are judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.wavelengths import PixelGrid

WORST = 5.0
"""Errors of the literature by which a star counts as wrong at most when options are compared."""


class Pixels(NamedTuple):
    """Spectra on shared pixels.

    Parameters
    ----------
    wave_aa : (n_pix,)
        Vacuum Angstrom.
    flux, ivar : (n, n_pix)
        ivar is 0 where a pixel is bad, masked or outside of what is fitted.
    """

    wave_aa: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray

    def take(self, rows: Any) -> Pixels:
        """Some of the spectra."""
        return Pixels(self.wave_aa, self.flux[rows], self.ivar[rows])


class Stars(NamedTuple):
    """Observed spectra, in both forms that peers ask for.

    Parameters
    ----------
    rest : Pixels
        At rest (by the fit of theory's emulator, for all peers alike), divided by the
        pseudo-continuum.
    observed : Pixels
        As observed: on the survey's pixels, equidistant in log(wavelength), with the continuum.
    """

    rest: Pixels
    observed: Pixels

    def take(self, rows: Any) -> Stars:
        """Some of the stars."""
        return Stars(self.rest.take(rows), self.observed.take(rows))

    @property
    def n_star(self) -> int:
        """How many there are."""
        return len(self.rest.flux)


class KnownStars(NamedTuple):
    """Observed stars that the literature has labels for.

    Parameters
    ----------
    stars : Stars
    labels, errors : mapping of str to (n,)
        teff, logg, mh of the literature, with the errors that it states.
    """

    stars: Stars
    labels: Mapping[str, np.ndarray]
    errors: Mapping[str, np.ndarray]

    def take(self, rows: Any) -> KnownStars:
        """Some of the stars."""
        return KnownStars(
            self.stars.take(rows),
            {name: values[rows] for name, values in self.labels.items()},
            {name: values[rows] for name, values in self.errors.items()},
        )


class Theory(NamedTuple):
    """Model spectra at the resolution of the survey.

    Parameters
    ----------
    names : tuple of str
    labels : (n, n_label)
    grid : PixelGrid
    flux : (n, n_pix)
        Surface flux.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    grid: PixelGrid
    flux: np.ndarray


class Training(NamedTuple):
    """All that a peer may learn from.

    Parameters
    ----------
    known : KnownStars
        For data-driven peers; model-driven ones see them in their validation alone.
    theory : Theory
    emulator : ForwardModel
        The package's, of that theory, on the pixels of the spectra at rest.
    """

    known: KnownStars
    theory: Theory
    emulator: ForwardModel


class Estimate(NamedTuple):
    """Labels of stars by name, (n,) each; errors, one sigma, of the labels that come with some."""

    labels: dict[str, np.ndarray]
    errors: dict[str, np.ndarray] = {}  # noqa: RUF012


Labeller = Callable[[Stars], Estimate]
"""A trained peer."""


class Peer(NamedTuple):
    """A method of the literature.

    Parameters
    ----------
    title : str
    learns_from : {"theory", "common stars"}
    source : str
        The publication.
    options : sequence
        What its own validation chooses among; the first is taken where there is no choice.
    train : callable
        ``train(training, option)`` gives a `Labeller`.
    """

    title: str
    learns_from: str
    source: str
    options: Sequence[Any]
    train: Callable[[Training, Any], Labeller]


class Tuned(NamedTuple):
    """What validation chose.

    Parameters
    ----------
    option : object
    scores : dict of str to float
        By option: root mean square of Teff and [M/H] against the literature, in its errors.
    """

    option: Any
    scores: dict[str, float]


def tune(peer: Peer, training: Training, *, share: float = 0.25, seed: int = 0) -> Tuned:
    """Choose among a peer's options on some of the common stars, which it does not learn from.

    Parameters
    ----------
    peer : Peer
    training : Training
    share : float
        Of the common stars that are set aside for this.
    seed : int
        Of that choice.

    Notes
    -----
    Teff and [M/H] decide, which all peers give; a star is at most `WORST` errors wrong, so that
    one outlier does not. The option is then trained again on all common stars by whoever asks.
    """
    if len(peer.options) == 1:
        return Tuned(peer.options[0], {})
    n_known = training.known.stars.n_star
    held = np.random.default_rng(seed).permutation(n_known) < share * n_known
    learned = training._replace(known=training.known.take(~held))
    asked = training.known.take(held)
    scores = {
        option: _score(peer.train(learned, option)(asked.stars), asked) for option in peer.options
    }
    return Tuned(min(scores, key=scores.__getitem__), {str(one): s for one, s in scores.items()})


def _score(found: Estimate, known: KnownStars) -> float:
    away = [
        (found.labels[name] - known.labels[name]) / known.errors[name] for name in ("teff", "mh")
    ]
    size = np.minimum(np.abs(np.nan_to_num(np.concatenate(away), nan=WORST)), WORST)
    return float(np.sqrt(np.mean(size**2)))


def invert_curvature(slopes: np.ndarray) -> np.ndarray:
    """Errors of parameters from slopes of whitened residuals; NaN where they say nothing.

    Parameters
    ----------
    slopes : (n_pix, n_parameter)

    Returns
    -------
    (n_parameter,)
    """
    curvature = slopes.T @ slopes
    if not np.isfinite(curvature).all() or np.linalg.cond(curvature) > 1e12:
        return np.full(slopes.shape[1], np.nan)
    return np.sqrt(np.diag(np.linalg.inv(curvature)))
