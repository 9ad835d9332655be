"""Which row of a catalogue is which row of a reference: by identifier, or by place on the sky."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxmdwarf.errors import UsageError


class Matches(NamedTuple):
    """Pairs of rows that belong together.

    Parameters
    ----------
    rows : (n_match,)
        Rows of the catalogue, increasing; each at most once.
    reference_rows : (n_match,)
        Their rows of the reference. Several spectra of one star share one.
    separation_arcsec : (n_match,)
        Distance on the sky; NaN where identifiers were matched.
    n_repeated : int
        Rows of the reference that were left out because an earlier one has the same identifier.
    """

    rows: Int[np.ndarray, " n_match"]
    reference_rows: Int[np.ndarray, " n_match"]
    separation_arcsec: Float[np.ndarray, " n_match"]
    n_repeated: int = 0


def match_by_key(keys: Iterable[object], reference_keys: Iterable[object]) -> Matches:
    """Match rows whose identifiers are the same once both are written as text.

    Whole numbers that became floats on their way through a table, and blanks around a name, do not
    matter; empty identifiers match nothing. Of equal identifiers in the reference the first counts.

    Examples
    --------
    >>> found = match_by_key(["12", "7", ""], [7.0, 12.0, 12.0])
    >>> found.rows.tolist(), found.reference_rows.tolist(), found.n_repeated
    ([0, 1], [1, 0], 1)
    """
    ours, theirs = _as_integers(keys), _as_integers(reference_keys)
    if ours is not None and theirs is not None:
        return _match_integers(ours, theirs)
    index: dict[str, int] = {}
    n_repeated = 0
    for row, key in enumerate(map(as_text, reference_keys)):
        if key and index.setdefault(key, row) != row:
            n_repeated += 1
    pairs = [
        (row, index[key]) for row, key in enumerate(map(as_text, keys)) if key and key in index
    ]
    rows = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return Matches(rows[:, 0], rows[:, 1], np.full(len(rows), np.nan), n_repeated)


class _Integers(NamedTuple):
    values: np.ndarray
    known: np.ndarray


def _as_integers(keys: Any) -> _Integers | None:
    """Keys as integers if that is their type: tens of millions of them are too many for texts."""
    dtype = getattr(keys, "dtype", None)
    if getattr(dtype, "kind", "") not in ("i", "u"):
        return None
    if not hasattr(keys, "isna"):
        return _Integers(np.asarray(keys, np.int64), np.ones(len(keys), bool))
    known = ~np.asarray(keys.isna())
    filled = keys if known.all() else keys.fillna(0)
    return _Integers(filled.to_numpy(np.int64), known)


def _match_integers(ours: _Integers, theirs: _Integers) -> Matches:
    import pandas as pd

    wanted = np.unique(ours.values[ours.known])
    given = np.flatnonzero(theirs.known)
    n_repeated = given.size - pd.unique(theirs.values[given]).size
    if not wanted.size or not given.size:
        none = np.zeros(0, np.int64)
        return Matches(none, none, np.zeros(0), n_repeated)
    place = np.minimum(np.searchsorted(wanted, theirs.values[given]), wanted.size - 1)
    hit = wanted[place] == theirs.values[given]
    there, first = np.unique(place[hit], return_index=True)
    reference_row = np.full(wanted.size, -1)
    reference_row[there] = given[hit][first]
    rows = np.flatnonzero(ours.known)
    found = reference_row[np.searchsorted(wanted, ours.values[rows])]
    rows, found = rows[found >= 0], found[found >= 0]
    return Matches(rows, found, np.full(rows.size, np.nan), n_repeated)


def match_by_position(
    ra_deg: Float[np.ndarray, " n"],
    dec_deg: Float[np.ndarray, " n"],
    reference_ra_deg: Float[np.ndarray, " n_reference"],
    reference_dec_deg: Float[np.ndarray, " n_reference"],
    *,
    radius_arcsec: float = 3.0,
) -> Matches:
    """Match each row to the nearest reference on the sky, if one lies within a radius.

    Parameters
    ----------
    ra_deg, dec_deg : (n,)
        Degrees; rows that are not finite match nothing.
    reference_ra_deg, reference_dec_deg : (n_reference,)
    radius_arcsec : float

    Raises
    ------
    UsageError
        If the radius is not positive, or exceeds a degree.

    Notes
    -----
    Epochs are not brought together: M dwarfs of the solar neighbourhood move by arcseconds a year,
    so give positions of nearly one epoch (`jaxmdwarf.catalogue.positions`) or a wider radius. A k-d
    tree of unit vectors answers millions of rows in seconds.

    Examples
    --------
    >>> ra, dec = np.array([10.0, 359.9999]), np.array([20.0, 0.0])
    >>> found = match_by_position(ra, dec, np.array([0.0]), np.array([0.0]))
    >>> found.rows.tolist(), found.separation_arcsec.round(2).tolist()
    ([1], [0.36])
    """
    from scipy.spatial import cKDTree

    require_radius(radius_arcsec)
    place, reference = (
        unit_vectors(ra_deg, dec_deg),
        unit_vectors(reference_ra_deg, reference_dec_deg),
    )
    known = np.flatnonzero(np.isfinite(place).all(axis=1))
    known_reference = np.flatnonzero(np.isfinite(reference).all(axis=1))
    if not (known.size and known_reference.size):
        none = np.zeros(0, np.int64)
        return Matches(none, none, np.zeros(0))
    # Not balanced: built in half the time, which is most of it where the reference is large.
    tree = cKDTree(reference[known_reference], balanced_tree=False, compact_nodes=False)
    chord, nearest = tree.query(
        place[known], distance_upper_bound=2 * np.sin(np.radians(radius_arcsec / 3600) / 2)
    )
    near = np.isfinite(chord)
    separation = np.degrees(2 * np.arcsin(np.clip(chord[near] / 2, 0, 1))) * 3600
    return Matches(known[near], known_reference[nearest[near]], separation)


def as_text(key: object) -> str:
    """An identifier as text: blanks stripped, ``12.0`` as ``12``, missing ones empty."""
    if isinstance(key, bytes):
        key = key.decode(errors="replace")
    if isinstance(key, float | np.floating):
        return "" if not np.isfinite(key) else str(int(key)) if key == int(key) else str(key)
    return "" if key is None else str(key).strip()


def require_radius(radius_arcsec: float) -> None:
    """Raise `UsageError` if a radius for matching is not positive, or exceeds a degree."""
    if not 0 < radius_arcsec <= 3600:
        raise UsageError(
            f"a matching radius of {radius_arcsec:g} arcsec makes no sense.",
            "use a few arcseconds: --radius-arcsec 3.",
        )


def unit_vectors(ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
    """Places on the sky, in degrees, as vectors of length one, (n, 3)."""
    ra, dec = np.radians(np.asarray(ra_deg, float)), np.radians(np.asarray(dec_deg, float))
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
