"""Labels of all methods against the truth of the same stars, as plain numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from benchmarks.peers.common import Estimate
from jaxmdwarf.diagnostics.agreement import measure_agreement
from jaxmdwarf.diagnostics.recovery import measure_pulls

SNR_EDGES = (5.0, 10.0, 20.0, 50.0, math.inf)
"""Bins of S/N in r."""

METAL_POOR = (-1.0, -0.7)
"""[M/H] of the stars that priors and training sets draw towards the others."""

LABELS = ("teff", "logg", "mh", "alpha_m")


def judge_all(
    estimates: Mapping[str, Estimate], truth: Mapping[str, np.ndarray], snr: np.ndarray
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Bias, scatter and pulls of every method.

    Parameters
    ----------
    estimates : mapping of method to Estimate
        Of the same stars.
    truth : mapping of label to (n,)
    snr : (n,)

    Returns
    -------
    dict of method to dict of label to list of dict
        One entry for each bin of S/N, one for all stars, one for metal-poor ones: ``stars`` says
        which. A star for which one method gives no number leaves that label of all methods that
        have it: they are compared on one set of stars.
    """
    found: dict[str, dict[str, list[dict[str, Any]]]] = {name: {} for name in estimates}
    for label in LABELS:
        giving = {name: one for name, one in estimates.items() if label in one.labels}
        kept = np.ones(snr.size, bool)
        for one in giving.values():
            kept &= np.isfinite(one.labels[label])
        for name, one in giving.items():
            away = (one.labels[label] - truth[label])[kept]
            error = one.errors.get(label)
            found[name][label] = [
                {"stars": stars, **_summarise(away[rows[kept]], _take(error, kept, rows))}
                for stars, rows in _choose_stars(truth["mh"], snr).items()
            ]
    return found


def _choose_stars(mh: np.ndarray, snr: np.ndarray) -> dict[str, np.ndarray]:
    chosen = {
        f"{low:g}-{high:g}" if high < math.inf else f"> {low:g}": (snr >= low) & (snr < high)
        for low, high in itertools.pairwise(SNR_EDGES)
    }
    poor = (mh > METAL_POOR[0]) & (mh < METAL_POOR[1])
    return {**chosen, "all": snr >= SNR_EDGES[0], "metal-poor": poor}


def _take(error: np.ndarray | None, kept: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
    return None if error is None else error[kept][rows[kept]]


def _summarise(away: np.ndarray, error: np.ndarray | None) -> dict[str, Any]:
    found = measure_agreement(away, error)
    numbers: dict[str, Any] = {
        "n": found.n,
        "bias": found.bias,
        "e_bias": found.e_bias,
        "scatter": found.robust_scatter,
        "e_scatter": found.e_robust_scatter,
        "std": found.scatter,
    }
    if error is not None:
        pulls = measure_pulls(away, error)
        numbers |= {
            "pull_mean": pulls.mean,
            "pull_width": pulls.width,
            "pulls_beyond_5": pulls.outliers,
        }
    # Four digits are more than a thousand stars tell.
    return {
        key: value if isinstance(value, int) else float(f"{value:.4g}")
        for key, value in numbers.items()
    }


def list_behind(
    judged: Mapping[str, Mapping[str, list[dict[str, Any]]]], ours: str, rivals: Collection[str]
) -> list[dict[str, Any]]:
    """Cells in which one of the rivals is ahead, by more than the errors of both.

    Returns
    -------
    list of dict
        ``label``, ``stars``, ``what`` ("bias" or "scatter"), ``method``, its number ``theirs`` and
        ``ours``.
    """
    found = []
    for label, rows in judged[ours].items():
        for number, own in enumerate(rows):
            for name, one in judged.items():
                if name not in rivals or label not in one or not own["n"]:
                    continue
                other = one[label][number]
                for what, key in (("bias", "e_bias"), ("scatter", "e_scatter")):
                    gain = abs(own[what]) - abs(other[what])
                    if gain > math.hypot(own[key], other[key]):
                        found.append(
                            {
                                "label": label,
                                "stars": own["stars"],
                                "what": what,
                                "method": name,
                                "theirs": other[what],
                                "ours": own[what],
                            }
                        )
    return found
