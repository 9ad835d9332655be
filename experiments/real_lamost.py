"""Real LAMOST M dwarfs through the model that comes with the package, or another."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmdwarf.errors import UsageError
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS
from jaxmdwarf.workflows.progress import Progress, Silent


@dataclass(frozen=True)
class RealLamostConfig:
    """A catalogue of the real LAMOST files in a folder, and a figure of one star with its fit.

    Shows that the whole chain runs on real files, how closely a model follows a real star, and how
    far velocities are from those of the headers.
    """

    model: str = ""
    """Model directory; by default the model that comes with the package."""
    data: str = ""
    """Folder with LAMOST files; by default `lamost` in the one that JAXMDWARF_TEST_DATA names."""
    shown: str = ""
    """Part of the name of the file to plot; by default the one with the highest S/N in r."""
    out: str = "runs/real_lamost"
    """Folder to write: catalogue.fits, its rejects, fit.png."""

    def run(self, progress: Progress | None = None) -> dict[str, Any]:
        """Numbers of the run; the scatter of velocities is against those of the headers."""
        import jaxmdwarf as jm
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
                    [data],
                    self.model or None,
                    catalogue,
                    overwrite=True,
                    progress=progress or Silent(),
                ),
                progress,
            )
        table = read_table(catalogue)

        spectra = jm.read(table["path"].tolist())
        header = SPEED_OF_LIGHT_KMS * np.array([spectrum.meta.z for spectrum in spectra])
        difference = (table["RV"].to_numpy(float) - header)[np.isfinite(header)]
        median = float(np.median(difference))
        scatter = 1.4826 * float(np.median(np.abs(difference - median)))

        order = np.argsort(-table["SNRr"].to_numpy(float))
        chosen = next(
            int(i) for i in order if not self.shown or self.shown in table["path"].iloc[i]
        )
        jm.fit(spectra[chosen], self.model or None).plot().savefig(out / "fit.png", dpi=150)
        return {**summary, "rv_median_kms": median, "rv_scatter_kms": scatter, "n_rv": header.size}
