"""What is read off spectra without a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxmdwarf.api.inputs import read
from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.tables import build_astropy_table
from jaxmdwarf.quality import write_flag_cards

if TYPE_CHECKING:
    from astropy.table import Table


def measure(
    x: Any,
    *,
    velocity: Literal["header"] | float | Any = "header",
    wave_unit: Any = None,
    medium: str | None = None,
    processes: int | None = None,
) -> Table:
    """Measure S/N, Halpha, TiO5, CaH1-3 and spectral types; no model is needed.

    Parameters
    ----------
    x : path, arrays, spectrum, or a list of these
        See `jaxmdwarf.read`.
    velocity : "header", float or (n,)
        What brings the spectra to rest: what their headers say (0 km/s, flagged, where they say
        nothing), or velocities in km/s, positive receding, one for all or one each.
    wave_unit, medium, processes
        See `jaxmdwarf.read`.

    Returns
    -------
    astropy.table.Table
        One row a spectrum, with the columns of ``jaxmdwarf measure``, units and descriptions.
        ``meta["rejects"]`` lists ``(path, reason, remedy, spectrum)`` of inputs that could not be
        read;
        ``meta["FLAG0"]`` and so on say what the flags mean.

    Raises
    ------
    UsageError, RejectedInput, WorkFailed
        As `jaxmdwarf.read`; also if there is not one velocity for each spectrum.

    Examples
    --------
    A flat spectrum whose TiO5 band is 40 % deep:

    >>> import numpy as np
    >>> wave = np.arange(6000.0, 8900.0)
    >>> flux = np.where((wave > 7120) & (wave < 7200), 0.6, 1.0)
    >>> table = measure((wave, flux, 900.0), velocity=0.0)
    >>> print(table["TiO5"][0].round(2), table["SpT"][0].round(1), table["flags"][0])
    0.6 1.7 0
    """
    from jaxmdwarf.workflows.measuring import tabulate_measurements

    spectra = read(x, wave_unit=wave_unit, medium=medium, processes=processes)
    rows = tabulate_measurements(spectra, _velocities(velocity, len(spectra)))
    table = build_astropy_table(rows)
    table.meta.update(write_flag_cards())
    if spectra.rejects:
        table.meta["rejects"] = [tuple(one) for one in spectra.rejects]
    return table


def _velocities(velocity: Any, n: int) -> np.ndarray | None:
    """Velocities in km/s, one a spectrum; None for those of the headers."""
    if isinstance(velocity, str):
        if velocity != "header":
            raise UsageError(
                f"velocity {velocity!r} is unknown.", 'give "header" or velocities in km/s.'
            )
        return None
    if hasattr(velocity, "to_value"):
        velocity = velocity.to_value("km/s")
    speeds = np.asarray(velocity, np.float64)
    if speeds.shape not in ((), (n,)):
        raise UsageError(
            f"velocity has shape {speeds.shape}, and there are {n} spectra.",
            "give one for all, or one each.",
        )
    return np.broadcast_to(speeds, (n,))
