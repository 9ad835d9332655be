"""Rows of the catalogue: what a fit and the spectra themselves say, under the catalogue's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxmdwarf.catalogue.columns import FIT_COLUMNS
from jaxmdwarf.measure.snr import estimate_snr
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import RawSpectrum

if TYPE_CHECKING:
    import pandas as pd

from jaxmdwarf.inference.fitter import FittedSpectra

LOW_SNR_BELOW = 5.0
"""Spectra fainter than this in r or i are flagged (the paper's cut, section 2.1)."""

LABEL_COLUMNS = {
    "teff": ("Teff", "e_Teff"),
    "logg": ("Logg", "e_Logg"),
    "mh": ("[M/H]", "e_[M/H]"),
    "alpha_m": ("alpha_M", "e_alpha_M"),
}


def tabulate_fit(raws: Sequence[RawSpectrum], fitted: FittedSpectra) -> pd.DataFrame:
    """Catalogue rows of fitted spectra, with the names of the paper's Table 1.

    Labels that the model does not have are NaN. `flags` gains what the spectra themselves give
    reason for: low S/N, pixels that were not finite.
    """
    import pandas as pd

    result, flags = fitted.result, fitted.flags.copy()
    snr = {
        band: np.array([_find_snr(raw, band) for raw in raws], np.float64) for band in ("r", "i")
    }
    low = (snr["r"] < LOW_SNR_BELOW) | (snr["i"] < LOW_SNR_BELOW)
    flags[low] |= int(QualityFlag.LOW_SNR)
    flags[[raw.meta.had_nonfinite for raw in raws]] |= int(QualityFlag.INPUT_NAN)
    columns: dict[str, Any] = {
        "path": [raw.meta.path for raw in raws],
        "obsid": [raw.meta.obsid for raw in raws],
        "RA": [raw.meta.ra_deg for raw in raws],
        "Dec": [raw.meta.dec_deg for raw in raws],
        "SNRr": snr["r"],
        "SNRi": snr["i"],
        "Subclass": [raw.meta.subclass for raw in raws],
        "RV": result.rv_kms.astype(np.float64),
        "e_RV": result.e_rv.astype(np.float64),
    }
    for label, names in LABEL_COLUMNS.items():
        for name, values in zip(names, (result.labels, result.errors), strict=True):
            known = label in fitted.label_names
            columns[name] = (
                values[:, fitted.label_names.index(label)].astype(np.float64)
                if known
                else np.full(len(raws), np.nan)
            )
    columns["chi2_red"] = result.chi2_red.astype(np.float64)
    columns["n_pix"] = result.n_pix.astype(np.int32)
    columns["flags"] = flags.astype(np.int32)
    return pd.DataFrame(columns)


def empty_rows() -> pd.DataFrame:
    import pandas as pd

    texts = ("path", "obsid", "Subclass")
    measured = [name for name in FIT_COLUMNS if name not in ("SpT", "Activity")]
    frame = pd.DataFrame({name: np.zeros(0) for name in measured})
    types = dict.fromkeys(texts, object)
    return frame.astype({**types, "n_pix": np.int32, "flags": np.int32})


def _find_snr(raw: RawSpectrum, band: Literal["r", "i"]) -> float:
    given = raw.meta.snr_r if band == "r" else raw.meta.snr_i
    return given if np.isfinite(given) else estimate_snr(raw.wave_aa, raw.flux, raw.ivar, band)
