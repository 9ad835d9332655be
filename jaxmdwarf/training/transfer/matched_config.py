"""Settings of a matched correction, and how much work they are."""

from __future__ import annotations

from dataclasses import dataclass

from jaxmdwarf.errors import UsageError

RESAMPLED_PASSES = 2
"""Of each sample from which the uncertainty of a correction is learned."""


@dataclass(frozen=True)
class MatchedConfig:
    """How a matched correction is learned.

    Parameters
    ----------
    order : {0, 1, 2}
        Of the label-dependent terms in Teff and [M/H].
    strengths : tuple of float
        Prior weights of the linear terms relative to the data's (quadratic ones have twice that);
        of those under which the labels come to spread as the reference does, the one with the
        highest evidence on the validation stars is taken.
    outside : float
        How many times as much what theory's spectra do not span is shrunk, of the same terms.
    n_passes : int
        Label fits, matchings and regressions.
    n_nuisance : int
        Directions that are learned from what labels do not explain; 0 for none.
    min_snr : float
        Spectra with a lower S/N are left out: they know little of theory's errors.
    max_spectra : int
        Spectra to learn from, drawn at random if there are more.
    least_common : int
        Stars of the reference that must be among the spectra for the two distributions to be
        compared star for star the same sample; with fewer, all spectra stand for the reference.
    logg_sigma, alpha_sigma : float
        Scatter, dex, of stars about the relations of the training labels.
    keep : float
        Share of the stars that are learned from: the worst described are binaries and giants.
    learn_priors : bool
        Whether the priors on [M/H] and [alpha/M] of a star are fitted to those learned from; else
        they are those of the reference and of the training labels.
    n_resample : int
        Pairs of disjoint samples of the stars, from which the uncertainty of the correction is
        learned; 0 for none.
    max_resampled : int
        Stars of such a sample at most.
    n_fold : int
        Parts of the anchors' stars that are held out one after the other, to see how well their
        labels come out; 0 for none.
    seed : int
        Of the split and of the draws.
    """

    order: int = 2
    strengths: tuple[float, ...] = (0.05, 0.2, 0.6)
    outside: float = 100.0
    n_passes: int = 4
    n_nuisance: int = 16
    min_snr: float = 10.0
    max_spectra: int = 8000
    least_common: int = 60
    logg_sigma: float = 0.05
    alpha_sigma: float = 0.06
    keep: float = 0.97
    learn_priors: bool = True
    n_resample: int = 8
    max_resampled: int = 800
    n_fold: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = (self.n_passes, self.max_spectra, len(self.strengths), self.max_resampled - 29)
        counts = (self.n_nuisance, self.n_resample, self.n_fold)
        positive = (*self.strengths, self.outside, self.logg_sigma, self.alpha_sigma, self.keep)
        if (
            min(sizes) < 1
            or min(counts) < 0
            or self.n_fold == 1
            or not min(positive) > 0
            or self.keep > 1
        ):
            raise UsageError(f"sizes, strengths and widths must be positive, got {self}.")


def count_passes(config: MatchedConfig, *, anchored: bool) -> int:
    """Passes of a training, those that tell of its uncertainty counted; with anchors or without."""
    held_out = config.n_fold * config.n_passes if anchored else 0
    return (
        len(config.strengths) * config.n_passes
        + 2 * config.n_resample * RESAMPLED_PASSES
        + held_out
    )
