"""What `jaxmdwarf.fit` returns: labels with errors, tables, spectra beside models, figures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmdwarf.api.inputs import Spectra, count, describe_rejects, name_spectrum
from jaxmdwarf.catalogue.label_columns import label_columns, likelihood_columns
from jaxmdwarf.catalogue.rows import settle_identifiers, tabulate_fit
from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.fitted import FittedFlux, FittedSpectra
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.results import FitResult
from jaxmdwarf.io.provenance import gather_provenance
from jaxmdwarf.io.rejects import Reject, name_rejects_file, read_rejects, write_rejects
from jaxmdwarf.io.tables import build_astropy_table, choose_format, write_table
from jaxmdwarf.labels import VELOCITY, describe_label
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.preprocess.masks import mask_for
from jaxmdwarf.quality import QualityFlag, describe_flags, write_flag_cards
from jaxmdwarf.workflows.outputs import require_output, require_rejects

if TYPE_CHECKING:
    import pandas as pd
    from astropy.table import Table
    from matplotlib.figure import Figure

_SHOWN_ROWS = 8


class Fits:
    """Fitted spectra, one row each, in the order in which they were given.

    Rows are chosen as those of an array: ``fits[3]``, ``fits[:10]``, ``fits[fits.good]``.

    Attributes
    ----------
    spectra : Spectra
        Those that were fitted.
    rejects : tuple of Reject
        ``(path, reason, remedy, spectrum)`` of each input that was not.
    model : ForwardModel
        That they were fitted with.

    Examples
    --------
    With a model directory and files of one's own:

    >>> fits = jm.fit("night1/", "model")  # doctest: +SKIP
    >>> fits.labels[:, 0], fits.errors[:, 0]  # Teff and its error in K  # doctest: +SKIP
    >>> fits[fits.good].write("catalogue.fits")  # doctest: +SKIP
    >>> fits.plot(0).savefig("fit.png")  # doctest: +SKIP
    """

    def __init__(self, spectra: Spectra, fitted: FittedSpectra, model: ForwardModel) -> None:
        self.spectra, self.model, self._fitted = spectra, model, fitted

    @property
    def rejects(self) -> tuple[Reject, ...]:
        """Inputs that were not fitted: path, reason, remedy."""
        return self.spectra.rejects

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was asked for and could not be, one sentence each."""
        return self._fitted.warnings

    @property
    def result(self) -> FitResult:
        """All numbers of the fit, among them chi-squares and iterations; for what takes problems.

        Rows of it are those of `problem`: ``fits.result.take([3])``, ``fits.problem(3)``.
        """
        return self._fitted.result

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the columns of `labels`."""
        return self._fitted.label_names

    @property
    def label_units(self) -> tuple[str, ...]:
        """Units of the columns of `labels`."""
        return self.model.label_space.units

    @property
    def labels(self) -> np.ndarray:
        """Labels (n, n_label) in the units of `label_units`; NaN where nothing was found."""
        return np.asarray(self._fitted.result.labels)

    @property
    def errors(self) -> np.ndarray:
        """One-sigma errors of `labels`, (n, n_label); NaN for labels that were held."""
        return np.asarray(self._fitted.result.errors)

    @property
    def likelihood_labels(self) -> np.ndarray:
        """Labels by the spectra alone, without priors, (n, n_label); NaN where none were asked."""
        return self._or_nothing(self._fitted.likelihood_labels)

    @property
    def likelihood_errors(self) -> np.ndarray:
        """One-sigma errors of `likelihood_labels`, (n, n_label)."""
        return self._or_nothing(self._fitted.likelihood_errors)

    def _or_nothing(self, values: np.ndarray | None) -> np.ndarray:
        return np.full(self.labels.shape, np.nan) if values is None else values

    @property
    def covariance(self) -> np.ndarray:
        """Of the labels, and of the velocity as the last row where it was fitted: (n, k, k)."""
        return np.asarray(self._fitted.result.covariance)

    @property
    def rv_kms(self) -> np.ndarray:
        """Radial velocities (n,), km/s, positive receding."""
        return np.asarray(self._fitted.result.rv_kms)

    @property
    def e_rv_kms(self) -> np.ndarray:
        """Errors of `rv_kms`, (n,); NaN where the velocity was not fitted."""
        return np.asarray(self._fitted.result.e_rv)

    @property
    def chi2_red(self) -> np.ndarray:
        """Chi-square of each star by its degrees of freedom, (n,)."""
        return np.asarray(self._fitted.result.chi2_red)

    @property
    def flags(self) -> np.ndarray:
        """Quality bits (n,), int32: see `describe_flags` and `jaxmdwarf.quality.QualityFlag`."""
        return self._rows["flags"].to_numpy()

    @property
    def good(self) -> np.ndarray:
        """Whether nothing is known that makes a row unfit for use, (n,), bool."""
        return self._rows["good"].to_numpy()

    def describe_flags(self, i: int | None = None) -> list[str] | list[list[str]]:
        """What the flags say, one sentence a bit.

        Parameters
        ----------
        i : int, optional
            One spectrum; all of them if left out.

        Returns
        -------
        list of str, or list of list of str
            The sentences of spectrum `i`, or of each.
        """
        if i is not None:
            return describe_flags(int(self.flags[i]))
        return [describe_flags(int(flags)) for flags in self.flags]

    def to_pandas(self) -> pd.DataFrame:
        """The catalogue rows of the spectra: the columns that ``jaxmdwarf fit`` writes."""
        return settle_identifiers(self._rows)

    def to_table(self) -> Table:
        """The catalogue rows as an astropy Table, with units, descriptions and UCDs.

        Its ``meta`` holds the table of flags (``FLAG0``: meaning, advice), as files do. `write`
        makes files of it that other programs read silently; astropy's own writers of FITS and
        VOTable warn of ``dex``, for which neither standard has a word.
        """
        table = build_astropy_table(self.to_pandas())
        table.meta.update(write_flag_cards())
        decimals = {"RA": 6, "Dec": 6}
        for label in (*map(describe_label, self.label_names), VELOCITY):
            shown = (*label_columns(label), *likelihood_columns(label)[:2])
            decimals |= {column.name: label.decimals for column in shown}
        for name in table.colnames:
            # How it is printed; all digits stay.
            if table[name].dtype.kind == "f":
                table[name].info.format = f"{{:.{decimals.get(name, 3)}f}}"
        return table

    def write(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the catalogue rows, with units, descriptions, flags and provenance.

        Rejects, if any, go to ``<path without extension>_rejects.csv`` beside it.

        Parameters
        ----------
        path : path
            Ends in .fits, .parquet, .vot, .ecsv, .csv or .mrt.
        overwrite : bool
            Whether a file that is there may be replaced.

        Raises
        ------
        UsageError
            If the extension is none of these, or the file exists or cannot be written.
        """
        choose_format(path)
        target = require_output(path, overwrite=overwrite)
        rejects, replaced = name_rejects_file(path), target.exists()
        # The same rows in another format have the same rejects.
        if self.rejects and not (rejects.is_file() and read_rejects(rejects) == [*self.rejects]):
            require_rejects(path, overwrite=overwrite)
        write_table(self.to_pandas(), path, provenance=gather_provenance())
        if self.rejects or (replaced and rejects.is_file()):
            write_rejects(rejects, self.rejects)

    @property
    def wave_aa(self) -> np.ndarray:
        """Pixels of `flux`, `ivar` and `model_flux`: (n_pix,), vacuum Angstrom.

        In the frame of the fit, within a pixel of that of the star.
        """
        return self._flux.wave_aa

    @property
    def flux(self) -> np.ndarray:
        """Spectra as they were fitted: at rest, normalised, (n, n_pix); bad pixels are 1."""
        return self._flux.flux

    @property
    def ivar(self) -> np.ndarray:
        """Stated inverse variances of `flux`, (n, n_pix); 0 for pixels that were not fitted."""
        return self._flux.ivar

    @property
    def model_flux(self) -> np.ndarray:
        """Flux of the model at the fitted labels and velocity, (n, n_pix)."""
        return self._flux.model_flux

    def problem(self, i: int | Sequence[int] | None = None) -> FitProblem:
        """What was fitted, with all that was assumed: for landscapes, posteriors, other fits.

        Parameters
        ----------
        i : int or sequence of int, optional
            Which spectra; all of them if left out.

        Returns
        -------
        FitProblem
            Taken by `jaxmdwarf.inference.explore` and `jaxmdwarf.inference.schedule.fit`.

        Raises
        ------
        UsageError
            If the spectra were not kept: fit with ``keep_spectra=True``.
        """
        return self._fitted.problem(i)

    def plot(self, i: int = 0) -> Figure:
        """Draw one spectrum with its model, the residuals in sigma, masks, lines and bands.

        Parameters
        ----------
        i : int
            Which spectrum.

        Returns
        -------
        matplotlib.figure.Figure
            A notebook shows it; ``savefig("fit.png")`` writes it.
        """
        from jaxmdwarf.plots.spectra import plot_fit

        one = self[i]
        spectrum = one._flux
        used = spectrum.used[0]
        fitted = np.flatnonzero(used)
        shown = slice(fitted[0], fitted[-1] + 1) if fitted.size else slice(None)
        return plot_fit(
            spectrum.wave_aa[shown],
            spectrum.flux[0][shown].astype(float),
            spectrum.sigma[0][shown].astype(float),
            spectrum.model_flux[0][shown].astype(float),
            masked=self._masked[shown],
            title=one._title(_number(i, len(self))),
            subtitle=one._subtitle(),
        )

    def __len__(self) -> int:
        return len(self.spectra)

    def __iter__(self) -> Iterator[Fits]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, chosen: Any) -> Fits:
        if isinstance(chosen, str):
            raise UsageError(
                f"fits[{chosen!r}] asks for a column; rows are chosen by number or mask.",
                f"use fits.to_pandas()[{chosen!r}].",
            )
        if isinstance(chosen, int | np.integer):
            chosen = [_number(int(chosen), len(self))]
        rows = np.arange(len(self))[chosen]
        spectra = Spectra([self.spectra[row] for row in rows], self.rejects)
        return Fits(spectra, self._fitted.take(rows), self.model)

    def __repr__(self) -> str:
        heads = [describe_label(name).axis for name in self.label_names]
        table = [["", *heads, VELOCITY.axis, "χ²/dof", "flags"]]
        for i in range(min(len(self), _SHOWN_ROWS)):
            values = [
                _with_error(name, value, error)
                for name, value, error in zip(
                    self.label_names, self.labels[i], self.errors[i], strict=True
                )
            ]
            velocity = _with_error(VELOCITY.name, self.rv_kms[i], self.e_rv_kms[i])
            names = "|".join(_name_flags(int(self.flags[i]))) or "-"
            name = name_spectrum(self.spectra[i], i)
            table.append([name, *values, velocity, f"{self.chi2_red[i]:.2f}", names])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            for row in table
        ]
        if len(self) > _SHOWN_ROWS:
            lines.append(f"  ... and {len(self) - _SHOWN_ROWS} more")
        good = int(np.count_nonzero(self.good))
        head = f"{count(len(self), 'fit')}, {good} good, {count(len(self.rejects), 'reject')}"
        notes = [f"  warning: {warning}" for warning in self.warnings]
        return "\n".join([head, *map(str.rstrip, lines), *describe_rejects(self.rejects), *notes])

    @cached_property
    def _rows(self) -> pd.DataFrame:
        return tabulate_fit(self.spectra, self._fitted)

    @cached_property
    def _flux(self) -> FittedFlux:
        return self._fitted.spectra()

    @property
    def _masked(self) -> np.ndarray:
        """Pixels of the model that no fit uses."""
        return mask_for(self.model.grid, self.model.preprocessing.masks_aa)

    def _title(self, number: int) -> str:
        """Of the one spectrum: its name, and what the survey says of it."""
        row = self._rows.iloc[0]
        words = [name_spectrum(self.spectra[0], number), str(row["Subclass"])]
        if np.isfinite(row["SNRr"]):
            words.append(f"S/N {row['SNRr']:.0f} in r")
        return " · ".join(word for word in words if word)

    def _subtitle(self) -> str:
        """Of the one spectrum: what was found."""
        words = [
            f"{describe_label(name).symbol} {_with_error(name, value, error, unit=True)}"
            for name, value, error in zip(
                self.label_names, self.labels[0], self.errors[0], strict=True
            )
        ]
        velocity = _with_error(VELOCITY.name, self.rv_kms[0], self.e_rv_kms[0], unit=True)
        words += [f"{VELOCITY.symbol} {velocity}", f"χ²/dof {self.chi2_red[0]:.2f}"]
        flags = _name_flags(int(self.flags[0]))
        if flags:
            words.append("flags " + ", ".join(flags))
        # Lines break between quantities, not within one.
        text = ", ".join(word.replace(" ", "\N{NO-BREAK SPACE}") for word in words)
        return text.replace("-", "\N{MINUS SIGN}")


def _with_error(name: str, value: Any, error: Any, *, unit: bool = False) -> str:
    label = describe_label(name)
    text = label.write(float(value), unit=False)
    if np.isfinite(error) and error > 0:
        text += f" ± {label.write(float(error), unit=False)}"
    return f"{text} {label.unit}" if unit and label.unit else text


def _name_flags(flags: int) -> list[str]:
    return [str(bit.name) for bit in QualityFlag if bit and flags & bit]


def _number(i: int, n: int) -> int:
    if not -n <= i < n:
        raise IndexError(f"there is no spectrum {i} among {n}")
    return i % n
