"""All peers, and the package itself, by the names of the table's rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers.common import Estimate, Labeller, Peer, Stars, Training
from benchmarks.peers.full_spectrum import ULYSS
from benchmarks.peers.payne_scipy import PAYNE
from benchmarks.peers.quadratic import CANNON
from benchmarks.peers.support_vectors import SLAM
from benchmarks.peers.survey import Case
from benchmarks.peers.templates import OBSERVED_TEMPLATES, THEORY_TEMPLATES
from jaxmdwarf.inference.config import FitConfig
from jaxmdwarf.inference.fitter import Fitter
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.spectra import RawSpectrum


def train_mean(training: Training, option: None) -> Labeller:
    """The mean of the literature, whatever the spectrum."""
    means = {name: float(values.mean()) for name, values in training.known.labels.items()}

    def label(stars: Stars) -> Estimate:
        return Estimate({name: np.full(stars.n_star, mean) for name, mean in means.items()})

    return label


MEAN = Peer("the mean of the literature for all", "common stars", "", (None,), train_mean)

PEERS: dict[str, Peer] = {
    "mean": MEAN,
    "laspm_theory": THEORY_TEMPLATES,
    "laspm_observed": OBSERVED_TEMPLATES,
    "slam": SLAM,
    "cannon": CANNON,
    "ulyss": ULYSS,
    "payne": PAYNE,
}

OURS, UNTOLD = "ours", "ours_untold"
"""The rows that others are held against: the default, which is told the labels of common stars as
data-driven peers are, and the paper's way, in which they are a distribution and no star's own."""

CYCLESTAR = "cyclestar"

OWN = {
    OURS: "this package",
    UNTOLD: "this package, labels of no star",
    "ours_free": "this package, no prior",
}

_ALL_SPECTRA = "theory and all observed spectra"


def fit_model(model: ForwardModel, raws: list[RawSpectrum], priors: str) -> Estimate:
    """Labels by the package's own fit, from raw spectra on: velocities are part of it.

    Parameters
    ----------
    model : ForwardModel
    raws : list of RawSpectrum
    priors : {"model", "none"}
    """
    result = (
        Fitter(model, FitConfig(priors=(priors,), chunk_size=256, likelihood_labels=False))
        .fit(raws)
        .result
    )
    names = model.label_space.names
    return Estimate(
        dict(zip(names, np.asarray(result.labels, np.float64).T, strict=True)),
        dict(zip(names, np.asarray(result.errors, np.float64).T, strict=True)),
    )


def list_own(case: Case, cyclestar_steps: int) -> dict[str, Callable[[], Labeller]]:
    """What learns each of the package's own models from a case, by row."""

    def learn(find_model: Callable[[], ForwardModel], priors: str) -> Callable[[], Labeller]:
        def trained() -> Labeller:
            model = find_model()
            return lambda _: fit_model(model, case.raws, priors)

        return trained

    fits = {
        OURS: learn(case.transfers.learn_default, "model"),
        UNTOLD: learn(case.transfers.learn_untold, "model"),
        "ours_free": learn(case.transfers.learn_default, "none"),
    }
    if cyclestar_steps:
        name = f"{CYCLESTAR} {cyclestar_steps}"
        fits[name] = learn(lambda: case.transfers.learn_cyclestar(cyclestar_steps), "none")
    return fits


def describe_row(name: str) -> dict[str, Any]:
    """Title of a row, what the method learns from, where it is from."""
    if name in PEERS:
        peer = PEERS[name]
        return {"title": peer.title, "learns_from": peer.learns_from, "source": peer.source}
    title = OWN.get(name)
    if title is None:
        title = f"Cycle-StarNet, the paper's configuration, {name.split()[-1]} steps of 500,000"
    told = name in OWN and name != UNTOLD
    learns_from = f"{_ALL_SPECTRA}, common stars" if told else _ALL_SPECTRA
    return {"title": title, "learns_from": learns_from, "source": ""}
