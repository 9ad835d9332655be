"""Contact sheets of cluster means, for a person to look through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from jaxmdwarf.preprocess.clean import CleaningRound

_N_COLUMNS = 4


def plot_contact_sheet(done: CleaningRound, wave_aa: np.ndarray) -> Figure:
    """One panel a group: its mean shape, size and verdict; dropped groups in red.

    Parameters
    ----------
    done : CleaningRound
        One round of `jaxmdwarf.preprocess.clean.clean`.
    wave_aa : (n_bin,)
        Bins of the means, vacuum Angstrom.

    Returns
    -------
    Figure
    """
    n_rows = -(-len(done.rows) // _N_COLUMNS)
    figure = Figure(figsize=(3.3 * _N_COLUMNS, 2.1 * n_rows + 0.5), layout="constrained")
    panels = figure.subplots(n_rows, _N_COLUMNS, squeeze=False, sharex=True).ravel()
    for panel, row, mean in zip(panels, done.rows, done.means, strict=False):
        colour = "#b2182b" if row.dropped else "#2166ac"
        panel.plot(wave_aa, mean, color=colour, linewidth=0.8)
        panel.axhline(0.0, color="0.8", linewidth=0.6, zorder=0)
        panel.set_title(
            f"({row.round}, {row.cluster})  n={row.n_members}  TiO5={row.tio5:.2f}",
            fontsize=8,
            color=colour,
        )
        if row.reason:
            panel.text(
                0.02, 0.04, row.reason, transform=panel.transAxes, fontsize=5.5, color=colour
            )
        panel.tick_params(labelsize=6)
    for panel in panels[len(done.rows) :]:
        panel.set_axis_off()
    figure.supxlabel("vacuum wavelength (Å)", fontsize=8)
    figure.supylabel("flux / mean flux", fontsize=8)
    n_dropped = sum(row.n_members for row in done.rows if row.dropped)
    figure.suptitle(
        f"cleaning, round {done.rows[0].round}: {done.members.size} spectra, {n_dropped} dropped",
        fontsize=10,
    )
    return figure
