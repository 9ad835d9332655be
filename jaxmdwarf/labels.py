"""Label spaces: which stellar labels a model speaks of, their units, bounds and scaling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxmdwarf.errors import UsageError

BOUND_SLACK = 1e-5
"""Share of a label's range by which rounding may carry it beyond a bound."""


@dataclass(frozen=True)
class LabelSpace:
    """Names, units and bounds of stellar labels, and their scaling to [-0.5, 0.5].

    Hashable, so that it can be a static part of a compiled function.

    Parameters
    ----------
    names, units : tuple of str, length n_label
    lower, upper : tuple of float, length n_label
        Physical bounds; they scale to -0.5 and +0.5.

    Examples
    --------
    >>> space = LabelSpace.mdwarf()
    >>> space.names
    ('teff', 'logg', 'mh', 'alpha_m')
    >>> space.scale(np.array(space.upper)).tolist()
    [0.5, 0.5, 0.5, 0.5]
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]

    def __post_init__(self) -> None:
        if not (len(self.names) == len(self.units) == len(self.lower) == len(self.upper) > 0):
            raise UsageError(f"a label space needs one unit and two bounds a label, got {self}.")
        for name, low, high in zip(self.names, self.lower, self.upper, strict=True):
            if not low < high:
                raise UsageError(f"label {name!r} has bounds {low}..{high}: they must increase.")

    @classmethod
    def mdwarf(
        cls,
        *,
        teff: tuple[float, float] = (2500.0, 4600.0),
        logg: tuple[float, float] = (3.5, 6.5),
        mh: tuple[float, float] = (-2.5, 1.0),
        alpha_m: tuple[float, float] = (-0.2, 0.7),
    ) -> LabelSpace:
        """The four labels of the paper, with bounds in K and dex.

        They reach well beyond the stars of interest: neither a theory whose temperatures are off by
        a few hundred kelvin nor the noise of a faint star may press fits against a bound.
        """
        bounds = (teff, logg, mh, alpha_m)
        return cls(
            names=("teff", "logg", "mh", "alpha_m"),
            units=("K", "dex", "dex", "dex"),
            lower=tuple(float(low) for low, _ in bounds),
            upper=tuple(float(high) for _, high in bounds),
        )

    @classmethod
    def bounding(cls, names: Sequence[str], units: Sequence[str], labels: np.ndarray) -> LabelSpace:
        """The smallest space that holds all rows of `labels`, shape (n, n_label)."""
        labels = np.asarray(labels, dtype=np.float64)
        return cls(
            names=tuple(names),
            units=tuple(units),
            lower=tuple(labels.min(axis=0).tolist()),
            upper=tuple(labels.max(axis=0).tolist()),
        )

    @property
    def n_label(self) -> int:
        """Number of labels."""
        return len(self.names)

    def index(self, name: str) -> int:
        """Position of label `name`; raises `UsageError` naming the labels there are."""
        if name not in self.names:
            raise UsageError(f"label {name!r} is unknown.", f"use one of {', '.join(self.names)}.")
        return self.names.index(name)

    def scale(self, labels):
        """Physical labels (..., n_label) to scaled ones; numpy or JAX arrays, dtype kept."""
        lower, width = self._bounds(labels)
        return (labels - lower) / width - 0.5

    def unscale(self, scaled):
        """Scaled labels (..., n_label) back to physical units; the inverse of `scale`."""
        lower, width = self._bounds(scaled)
        return (scaled + 0.5) * width + lower

    def contains(self, labels, *, slack: float = 0.0):
        """Whether each row of `labels` (..., n_label) lies within the bounds, shape (...).

        Bounds are taken to be wider by `slack` of their range on both sides.
        """
        lower, width = self._bounds(labels)
        more = np.asarray(slack, width.dtype) * width
        return ((labels >= lower - more) & (labels <= lower + width + more)).all(axis=-1)

    def require_inside(self, labels: np.ndarray) -> None:
        """Raise `UsageError`, naming the label, unless each row of `labels` is within the bounds.

        Rounding of single precision is forgiven.
        """
        rows = np.asarray(labels, np.float64).reshape(-1, self.n_label)
        for index, name in enumerate(self.names):
            low, high = self.lower[index], self.upper[index]
            more = BOUND_SLACK * (high - low)
            values = rows[:, index]
            wrong = ~((values >= low - more) & (values <= high + more))
            if wrong.any():
                raise UsageError(
                    f"{name} = {values[wrong][0]:g} {self.units[index]} lies outside the model, "
                    f"which knows {low:g} to {high:g}.",
                    "give labels within these bounds, or use a model that reaches further.",
                )

    def _bounds(self, like) -> tuple[np.ndarray, np.ndarray]:
        dtype = like.dtype if np.issubdtype(like.dtype, np.floating) else np.float64
        lower = np.asarray(self.lower, dtype=dtype)
        return lower, np.asarray(self.upper, dtype=dtype) - lower
