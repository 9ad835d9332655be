"""Labels of the synthetic domain: of which stars they are drawn, and drawn once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from jaxmdwarf.io.json_files import plain_json
from jaxmdwarf.io.provenance import hash_values
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.training.labels.training_set import TrainingSetConfig, sample_training_labels
from jaxmdwarf.training.transfer.label_matching import ReferenceSample
from jaxmdwarf.workflows.progress import Progress
from jaxmdwarf.workflows.run import Chunk, open_run

if TYPE_CHECKING:
    import pandas as pd


def choose_stars(
    reference: pd.DataFrame | None,
    sample: ReferenceSample | None,
    settings: TrainingSetConfig,
    space: LabelSpace,
    *,
    observed: bool,
) -> tuple[Float[np.ndarray, "n 2"] | None, TrainingSetConfig]:
    """Teff and [M/H] that labels are to be distributed as, and how they are drawn.

    All stars of the reference; or those that are among the spectra, as far as they reach.

    Parameters
    ----------
    reference : DataFrame or None
    sample : ReferenceSample or None
        Of the same, with rows if enough of its stars are among the spectra.
    settings : TrainingSetConfig
    space : LabelSpace
        Of the emulator.
    observed : bool
        Whether those among the spectra are asked for: a method that makes two domains alike as
        distributions cannot tell other stars from the gap.
    """
    if reference is None or sample is None:
        return None, settings
    if sample.rows is None or not observed:
        return reference[["teff", "mh"]].to_numpy(np.float64), settings
    # Stars beyond the cuts are among the spectra, too.
    cuts = settings.cuts.reach(sample.teff_mh, space)
    return sample.teff_mh, replace(settings, cuts=cuts)


def sample_labels(
    known: Float[np.ndarray, "n 2"] | None,
    settings: TrainingSetConfig,
    isochrones: Mapping[str, np.ndarray] | None,
    folder: Path | None,
    progress: Progress,
    *,
    n_draws: int,
    seed: int,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Draw the labels; those of an earlier run of the same command are taken if there are any.

    Parameters
    ----------
    known, settings
        Of `choose_stars`.
    isochrones : mapping or None
    folder : Path or None
        Where they are kept.
    progress : Progress
    n_draws, seed : int
        See `jaxmdwarf.training.labels.training_set.sample_training_labels`.

    Returns
    -------
    labels : (n_draw, 4)
    report : dict
        Plain numbers.
    """
    import pandas as pd

    def sample() -> tuple[np.ndarray, dict[str, Any]]:
        progress.say("sampling labels of the synthetic domain")
        sampled = sample_training_labels(
            known, isochrones, n_draws=n_draws, seed=seed, config=settings
        )
        return sampled.labels, plain_json(sampled.report)

    if folder is None:
        return sample()
    about = {
        "labels": settings,
        "n_draws": n_draws,
        "seed": seed,
        "sources": hash_values(known, isochrones),
    }
    # Those of other settings are sampled again in no time.
    with open_run(folder / "labels", kind="labels", about=about, overwrite=True) as run:
        if not run.n_done:
            labels, report = sample()
            run.step("report", lambda: report)
            run.keep(0, Chunk(pd.DataFrame(), [], {"labels": labels}))
        return (run.read(0).arrays or {})["labels"], run.result("report")
