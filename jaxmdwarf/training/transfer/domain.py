"""The observed domain: unlabelled spectra at rest, their split, and errors to weigh them by."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

PAPER_SHARES = (8, 2, 1)
"""Training, validation and test (paper, section 3.3.1)."""


@dataclass(frozen=True)
class ObservedDomain:
    """Observed spectra at rest, normalised, on the pixels of the emulator; on the host.

    A hundred thousand spectra take gigabytes, so they stay numpy arrays until rows are asked for.

    Parameters
    ----------
    flux, ivar, information : (n, n_pix)
        As in `jaxmdwarf.spectra.SpectrumBatch`.
    grid : PixelGrid
    frame_kms : (n,)
        Radial velocities that were taken out.
    snr : (n,)
        Signal-to-noise ratio in r.
    names : tuple of str
        Path or identifier of each spectrum; may be empty.
    star : (n,) int, optional
        Number of the star of each spectrum; without it each spectrum is of a star of its own.

    Raises
    ------
    MismatchError
        If shapes disagree, or flux or ivar is not finite, or ivar is negative.

    Examples
    --------
    >>> grid, ones = PixelGrid.linear(7000.0, 7009.0, 1.0), np.ones((3, 10), np.float32)
    >>> domain = ObservedDomain(ones, ones, ones, grid, np.zeros(3), np.full(3, 30.0))
    >>> domain.batch([2, 0]).n_spec
    2
    """

    flux: Float[np.ndarray, "n n_pix"]
    ivar: Float[np.ndarray, "n n_pix"]
    information: Float[np.ndarray, "n n_pix"]
    grid: PixelGrid
    frame_kms: Float[np.ndarray, "n"]
    snr: Float[np.ndarray, "n"]
    names: tuple[str, ...] = ()
    star: Int[np.ndarray, "n"] | None = None

    def __post_init__(self) -> None:
        n_spec, expected = len(self.flux), (len(self.flux), self.grid.n_pix)
        for name in ("flux", "ivar", "information"):
            shape = getattr(self, name).shape
            if shape != expected:
                raise MismatchError(
                    f"{name} of the observed domain has shape {shape}, not {expected}.",
                    "put all spectra on one pixel grid.",
                )
        if self.frame_kms.shape != (n_spec,) or self.snr.shape != (n_spec,):
            raise MismatchError(
                f"{n_spec} spectra, but {self.frame_kms.shape} velocities and {self.snr.shape} S/N."
            )
        if self.names and len(self.names) != n_spec:
            raise MismatchError(f"{n_spec} spectra, but {len(self.names)} names.")
        if self.star is not None and self.star.shape != (n_spec,):
            raise MismatchError(f"{n_spec} spectra, but stars of {self.star.shape}.")
        bad = np.flatnonzero(~_usable(self.flux, self.ivar))
        if bad.size:
            first = self.names[bad[0]] if self.names else f"row {bad[0]}"
            raise MismatchError(
                f"flux or ivar of {bad.size} observed spectra is not finite or negative, "
                f"{first} among them.",
                "give bad pixels flux 1 and ivar 0, or drop these spectra.",
            )

    @property
    def n_spec(self) -> int:
        """Number of spectra."""
        return len(self.flux)

    def batch(self, rows: Sequence[int] | Int[np.ndarray, "k"] | None = None) -> SpectrumBatch:
        """Spectra of `rows` (all by default) for the accelerator."""
        chosen = slice(None) if rows is None else np.asarray(rows)
        return SpectrumBatch(
            flux=jnp.asarray(self.flux[chosen]),
            ivar=jnp.asarray(self.ivar[chosen]),
            information=jnp.asarray(self.information[chosen]),
            grid=self.grid,
        )

    def take(self, rows: Sequence[int] | Int[np.ndarray, "k"]) -> "ObservedDomain":
        """The domain of `rows` alone."""
        rows = np.asarray(rows)
        return ObservedDomain(
            flux=self.flux[rows],
            ivar=self.ivar[rows],
            information=self.information[rows],
            grid=self.grid,
            frame_kms=self.frame_kms[rows],
            snr=self.snr[rows],
            names=tuple(self.names[row] for row in rows) if self.names else (),
            star=None if self.star is None else self.star[rows],
        )


class DomainSplit(NamedTuple):
    """Rows to learn from, to choose by, and to judge by; sorted, disjoint, together all rows."""

    train: Int[np.ndarray, "n_train"]
    validation: Int[np.ndarray, "n_validation"]
    test: Int[np.ndarray, "n_test"]


def split_domain(
    n_spec: int,
    *,
    seed: int,
    shares: tuple[float | int, float | int, float | int] = PAPER_SHARES,
    least: tuple[int, int, int] = (1, 1, 1),
    star: Int[np.ndarray, "n_spec"] | None = None,
    anchored: Bool[np.ndarray, "n_spec"] | None = None,
    good: Bool[np.ndarray, "n_spec"] | None = None,
) -> DomainSplit:
    """Split rows at random (paper, section 3.3.1: 8:2:1), all spectra of a star to one part.

    Parameters
    ----------
    n_spec : int
    seed : int
        The split is a function of this and of the other arguments.
    shares : (train, validation, test)
        Relative sizes; the last two may be 0.
    least : (train, validation, test)
        Sizes that are needed of the parts whose share is not 0.
    star : (n_spec,) int, optional
        Number of the star of each row; without it each row is a star of its own.
    anchored : (n_spec,) bool, optional
        Rows whose stars are to be learned from, wherever chance would have put them. Where this
        would leave the other parts less than half of their rows, or fewer good ones than `least`,
        all stay where they are.
    good : (n_spec,) bool, optional
        Rows that are of use; all if left out.

    Raises
    ------
    UsageError
        If shares are negative, or none is to train on.
    MismatchError
        If there are too few spectra; says how many are needed.

    Examples
    --------
    >>> split = split_domain(110, seed=0)
    >>> [len(rows) for rows in split]
    [80, 20, 10]
    >>> [len(rows) for rows in split_domain(110, seed=0, star=np.arange(110) // 11)]
    [77, 22, 11]
    """
    if min(shares) < 0 or not shares[0] > 0:
        raise UsageError(
            f"shares {shares} cannot split spectra.", "give three numbers from 0, the first above."
        )
    total = sum(shares)
    n_validation, n_test = (round(n_spec * share / total) for share in shares[1:])
    n_train = n_spec - n_validation - n_test
    number = np.arange(n_spec) if star is None else np.unique(star, return_inverse=True)[1]
    visits = np.bincount(number, minlength=1)
    order = np.random.default_rng(seed).permutation(visits.size)
    # A star that would straddle two parts goes to the later one.
    reached = np.empty(visits.size, int)
    reached[order] = np.cumsum(visits[order])
    part = ((reached > n_train).astype(int) + (reached > n_train + n_validation))[number]
    if anchored is not None:
        useful = np.ones(n_spec, bool) if good is None else good
        part = _move_to_training(part, number, anchored, useful, least)
    split = DomainSplit(*(np.flatnonzero(part == one) for one in range(3)))
    sizes = tuple(map(len, split))
    needed = [int(small) if share else 0 for small, share in zip(least, shares, strict=True)]
    if any(size < small for size, small in zip(sizes, needed, strict=True)):
        # The most visited star may be missing from any part.
        more = max(int(visits.max()), 1) - 1
        enough = max(
            math.ceil((small + more) * total / share) + 1
            for small, share in zip(needed, shares, strict=True)
            if small
        )
        parts = ":".join(f"{share:g}" for share in shares)
        raise MismatchError(
            f"{n_spec} usable spectra are too few: split {parts} they give {sizes[0]} to train on, "
            f"{sizes[1]} to validate and {sizes[2]} to test; {needed[0]}, {needed[1]} and "
            f"{needed[2]} are needed.",
            f"give at least {enough} usable spectra, or smaller batches (--batch-size).",
        )
    return split


def _move_to_training(
    part: np.ndarray,
    number: np.ndarray,
    anchored: np.ndarray,
    good: np.ndarray,
    least: tuple[int, int, int],
) -> np.ndarray:
    """Parts of rows once the stars of anchored rows are in the first, if the others can spare."""
    moves = np.isin(number, number[anchored])
    for one in (1, 2):
        kept = (part == one) & ~moves
        halved = 2 * np.count_nonzero(kept) < np.count_nonzero(part == one)
        if halved or np.count_nonzero(kept & good) < least[one]:
            return part
    return np.where(moves, 0, part)


def floor_errors(
    ivar: Float[np.ndarray, "n n_pix"],
    *,
    floor: float | None = 0.005,
    largest: float | None = None,
) -> Float[np.ndarray, "n n_pix"]:
    """Inverse variances by which observed pixels are weighed in training.

    Parameters
    ----------
    ivar : (n, n_pix)
        Of normalised flux.
    floor : float or None
        Smallest one-sigma error: no bright star rules a batch.
    largest : float or None
        Pixels with a larger error are masked. The public configuration of Cycle-StarNet, for
        APOGEE, has 0.005 and 0.05; at the S/N of LAMOST the latter masks half of all spectra.

    Examples
    --------
    >>> floor_errors(np.array([[1e6, 1e3, 25.0, 0.0]]), floor=0.01, largest=0.1).round(3).tolist()
    [[10000.0, 1000.0, 0.0, 0.0]]
    """
    for name, value in (("floor", floor), ("largest", largest)):
        if value is not None and not value > 0:
            raise UsageError(f"the {name} error must be positive, got {value}.")
    weighed = ivar if floor is None else np.minimum(ivar, ivar.dtype.type(floor**-2))
    if largest is None:
        return weighed
    return np.where(ivar >= ivar.dtype.type(largest**-2), weighed, ivar.dtype.type(0))


def _usable(flux: np.ndarray, ivar: np.ndarray, *, rows_at_once: int = 4096) -> np.ndarray:
    """Rows without NaN and without negative ivar, found without copies of all pixels."""
    parts = [
        np.isfinite(flux[first : first + rows_at_once]).all(axis=1)
        & np.isfinite(ivar[first : first + rows_at_once]).all(axis=1)
        & (ivar[first : first + rows_at_once] >= 0).all(axis=1)
        for first in range(0, len(flux), rows_at_once)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=bool)
