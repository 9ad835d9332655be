"""What a reader of a run's report should look at: numbers that are bad, and the worst fits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmdwarf.plots.style import describe_quantity
from jaxmdwarf.plots.worst import SmallFit, plot_small_fits
from jaxmdwarf.quality import FLAG_TABLE, find_good
from jaxmdwarf.report.page import Section, Table, Text
from jaxmdwarf.workflows.judging import predict_fitted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from jaxmdwarf.models.base import ForwardModel
    from jaxmdwarf.report.page import Picture
    from jaxmdwarf.workflows.validating import Validation

N_WORST = 20

MOST_EMULATOR_ERROR = 0.005
"""Of the median spectrum: at S/N 50 a quarter of the noise, beyond which faint stars notice too."""
LEAST_CONVERGED = 0.95
MOST_REJECTED, LEAST_GOOD = 0.1, 0.5
PULL_WIDTHS, MOST_PULL_MEAN = (0.67, 1.5), 1.0
MOST_CLASSIFIER = 0.75
"""Half way between chance and certainty."""


def list_findings(
    metrics: Mapping[str, Any], shown: Validation, catalogue: pd.DataFrame
) -> list[tuple[str, str]]:
    """What is bad in a run, and what helps; nothing where all is well.

    Parameters
    ----------
    metrics : mapping
        Of the run, as in ``metrics.json``.
    shown : Validation
        Of the catalogue against the truth.
    catalogue : DataFrame

    Returns
    -------
    list of (finding, remedy)
    """
    found = _find_bad_fits(metrics, catalogue)
    for name, one in shown.comparisons.items():
        symbol, pulls = describe_quantity(name).symbol, one.pulls
        wide = f"pulls are {pulls.width:.1f} wide, 1 is right"
        if pulls.width > PULL_WIDTHS[1]:
            found.append((f"errors of {symbol} are too small: {wide}", _TOO_SMALL))
        elif pulls.width < PULL_WIDTHS[0]:
            found.append((f"errors of {symbol} are too large: {wide}", _TOO_LARGE))
        if abs(pulls.mean) > MOST_PULL_MEAN:
            found.append((f"{symbol} is off by {pulls.mean:+.1f} of its errors in common", _OFF))
    return found


_TOO_SMALL = (
    "look at the figure by S/N: where bright spectra are off, the model is wrong by more than it "
    "knows, and a transfer, or more spectra to learn it from (--n), helps; where faint ones are, "
    "use the total errors from repeat visits, in value_added.fits"
)
_TOO_LARGE = "labels are better than stated: priors that are wider than the sample do this"
_OFF = (
    "theory is wrong in a way that labels take up: learn the difference (--transfer matched); "
    "known labels of some stars (anchors) fix what is left"
)


def _find_bad_fits(metrics: Mapping[str, Any], catalogue: pd.DataFrame) -> list[tuple[str, str]]:
    """Findings that need no truth."""
    found = []
    counts, fit, emulator = metrics["counts"], metrics["fit"], metrics["emulator"]
    if emulator["eq1_median"] > MOST_EMULATOR_ERROR:
        found.append(
            (
                f"the emulator is off by {emulator['eq1_median']:.2%} of the flux in the median",
                "train on more models (--grid) or longer; the figure tells where it is bad",
            )
        )
    if counts["rejected"] > MOST_REJECTED * counts["input"]:
        found.append(
            (
                f"{counts['rejected']} of {counts['input']} files were rejected",
                "the section on rejected files has the reasons, each with its remedy",
            )
        )
    if fit["converged_fraction"] < LEAST_CONVERGED:
        found.append(
            (
                f"only {fit['converged_fraction']:.0%} of the fits converged",
                "look at the worst fits: spectra of other objects, or a wrong velocity, do this",
            )
        )
    good = float(np.mean(find_good(catalogue["flags"].to_numpy(np.int64))))
    if good < LEAST_GOOD:
        found.append(
            (
                f"only {good:.0%} of the spectra are good for use",
                "the section on flags has their number by reason, and what to do about each",
            )
        )
    transfer = metrics["transfer"]["classifier_accuracy"]
    accuracy = transfer[list(transfer)[-1] if "transfer" not in transfer else "transfer"]
    if np.isfinite(accuracy) and accuracy > MOST_CLASSIFIER:
        found.append(
            (
                f"a classifier tells models from spectra {accuracy:.0%} of the time",
                "models do not look like the spectra: the residuals by pixel show where, and a "
                "transfer (--transfer matched) learns what is missing",
            )
        )
    return found


def write_findings(found: list[tuple[str, str]]) -> Section:
    """The section that tells what is bad and what helps."""
    if not found:
        return Section(
            "What to look at first",
            [
                Text(
                    "No number of this run is bad: the emulator is within "
                    f"{MOST_EMULATOR_ERROR:.1%} of the flux in the median, at least "
                    f"{LEAST_CONVERGED:.0%} of the fits converged, at most {MOST_REJECTED:.0%} of "
                    f"the files were rejected, at least {LEAST_GOOD:.0%} of the spectra are good "
                    f"for use, a classifier tells models from spectra at most "
                    f"{MOST_CLASSIFIER:.0%} of the time, and pulls are {PULL_WIDTHS[0]} to "
                    f"{PULL_WIDTHS[1]} wide with a mean below {MOST_PULL_MEAN:g}."
                )
            ],
        )
    return Section(
        "What to look at first", [Table(("what is bad", "what helps"), found, text_columns=(1,))]
    )


def choose_worst(catalogue: pd.DataFrame) -> pd.DataFrame:
    """The fits of the highest reduced chi-square, worst first."""
    fitted = catalogue[np.isfinite(catalogue["chi2_red"].to_numpy(float))]
    return fitted.sort_values("chi2_red", ascending=False)[:N_WORST].reset_index(drop=True)


def plot_worst(model: ForwardModel, worst: pd.DataFrame) -> Figure:
    """The spectra of these rows and what was fitted to them."""
    fitted = predict_fitted(model, worst)
    flux, used = np.asarray(fitted.observed.flux), np.asarray(fitted.observed.ivar) > 0
    panels = [
        SmallFit(
            flux[row].astype(float),
            fitted.model[row].astype(float),
            used[row],
            f"{row + 1}: obsid {one['obsid']}, S/N {one['SNRr']:.0f} in r, "
            f"reduced χ² {one['chi2_red']:.1f}",
        )
        for row, (_, one) in enumerate(worst.iterrows())
    ]
    return plot_small_fits(model.grid.wave_aa, panels)


def write_worst(worst: pd.DataFrame, picture: Picture | None) -> Section:
    """The section of the worst fits: their files, what flags say of them, and their spectra."""
    rows = [
        (
            str(number),
            os.path.basename(one["path"]),
            f"{one['SNRr']:.0f}",
            f"{one['chi2_red']:.1f}",
            ", ".join(str(bit.name) for bit in FLAG_TABLE if int(one["flags"]) & bit) or "none",
        )
        for number, (_, one) in enumerate(worst.iterrows(), start=1)
    ]
    return Section(
        f"The {len(rows)} worst fits",
        [
            Text(
                "Those of the highest reduced chi-square: the mean square of the residuals over "
                "their stated errors, about 1 where model and errors are right. If bright spectra "
                "come first, the model is to blame, if faint ones do, the spectra are. The section "
                "on flags tells what these mean."
            ),
            Table(("", "file", "S/N in r", "reduced χ²", "flags"), rows, text_columns=(1, 4)),
            *([] if picture is None else [picture]),
        ],
    )


def write_sample(metrics: Mapping[str, Any]) -> Table:
    """What each of the paper's cuts takes away."""
    rows = [
        (one["words"], str(one["removed"]), str(one["left"]))
        for one in metrics["value_added"]["waterfall"]
    ]
    return Table(
        ("cut", "removes", "leaves"), rows, "From all spectra to the sample of the paper's cuts"
    )
