"""Real LAMOST M dwarfs through a model that was trained on simulated theory alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmdwarf.errors import UsageError
from jaxmdwarf.workflows.progress import Progress, Silent


@dataclass(frozen=True)
class RealLamostConfig:
    """A catalogue of the real LAMOST files in a folder, and a figure of one star with its fit.

    The labels inherit every error of the simulated theory and are not to be used for science; what
    the experiment shows is that the whole chain runs on real files, and how closely simulated
    physics follows a real star.
    """

    model: str = "quickstart/emulator"
    """Model directory; `jaxmdwarf quickstart` trains one."""
    data: str = ""
    """Folder with LAMOST files; by default `lamost` in the one that JAXMDWARF_TEST_DATA names."""
    shown: str = ""
    """Part of the name of the file to draw; by default the one with the highest S/N in r."""
    out: str = "runs/real_lamost"
    """Folder to write: catalogue.fits, its rejects, fit.png."""

    def run(self, progress: Progress | None = None) -> dict[str, Any]:
        """Numbers of the run; the scatter of velocities is against those of the headers."""
        from jaxmdwarf.inference.fitter import Fitter
        from jaxmdwarf.io.models import load_model
        from jaxmdwarf.io.spectra.readers import read_spectrum
        from jaxmdwarf.io.tables import read_table
        from jaxmdwarf.workflows.fitting import fit_files
        from jaxmdwarf.workflows.run import open_run

        data = self.data or os.path.join(os.environ.get("JAXMDWARF_TEST_DATA", ""), "lamost")
        if not Path(data).is_dir():
            raise UsageError(f"no folder {data!r}.", "give --data or set JAXMDWARF_TEST_DATA.")
        out = Path(self.out)
        catalogue = out / "catalogue.fits"
        with open_run(out / "work", kind="an experiment", about={"config": self}) as work:
            summary = work.step(
                "fit",
                lambda: fit_files(
                    [data], self.model, catalogue, overwrite=True, progress=progress or Silent()
                ),
                progress,
            )
        table = read_table(catalogue)

        raws = [read_spectrum(path) for path in table["path"]]
        header = 299_792.458 * np.array([raw.meta.z for raw in raws])
        difference = (table["RV"].to_numpy(float) - header)[np.isfinite(header)]
        median = float(np.median(difference))
        scatter = 1.4826 * float(np.median(np.abs(difference - median)))

        order = np.argsort(-table["SNRr"].to_numpy(float))
        chosen = next(
            int(i) for i in order if not self.shown or self.shown in table["path"].iloc[i]
        )
        figure = plot_star(Fitter(load_model(self.model)), raws[chosen])
        figure.savefig(out / "fit.png", dpi=110)
        return {**summary, "rv_median_kms": median, "rv_scatter_kms": scatter, "n_rv": header.size}


def plot_star(fitter, raw):
    """Fit one spectrum and draw it with its best model."""
    from jaxmdwarf.plots.spectra import plot_fit
    from jaxmdwarf.preprocess.batch import preprocess_batch
    from jaxmdwarf.preprocess.masks import mask_for

    fitted = fitter.fit([raw])
    labels, errors = fitted.result.labels[0], fitted.result.errors[0]
    batch = preprocess_batch(
        [raw],
        fitter.grid,
        rv_kms=np.array([float(fitted.result.rv_kms[0])]),
        masks=fitter.preprocessing.masks_aa,
        sigma_aa=fitter.preprocessing.sigma_aa,
    )
    ivar = np.asarray(batch.ivar[0], dtype=float)
    sigma = np.full(ivar.shape, np.nan)
    np.divide(1.0, np.sqrt(ivar), out=sigma, where=ivar > 0)
    title = (
        f"LAMOST {raw.meta.obsid or Path(raw.meta.path).stem} ({raw.meta.subclass}, S/N "
        f"{raw.meta.snr_r:.0f}): Teff {labels[0]:.0f} ± {errors[0]:.0f} K, log g {labels[1]:.2f} ± "
        f"{errors[1]:.2f}, [M/H] {labels[2]:+.2f} ± {errors[2]:.2f}"
    )
    return plot_fit(
        fitter.grid.wave_aa,
        np.asarray(batch.flux[0], dtype=float),
        sigma,
        np.asarray(fitter.model.predict(np.asarray(labels, dtype=np.float32)), dtype=float),
        masked=mask_for(fitter.grid, fitter.preprocessing.masks_aa),
        title=title,
    )
