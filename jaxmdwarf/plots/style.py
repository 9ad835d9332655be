"""What figures share: colours that colour-blind readers can tell apart, names, units, rendering."""

from __future__ import annotations

import io
from typing import NamedTuple

from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, PURPLE, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "0.55",
)
"""From the palette of Okabe & Ito (2008)."""

SEQUENTIAL = "viridis"
"""Colour map for quantities that grow."""


class Quantity(NamedTuple):
    """How a quantity is written in figures and tables.

    Parameters
    ----------
    symbol : str
        Plain text.
    unit : str
        Empty for pure numbers.
    decimals : int
        Digits after the point that make sense.
    """

    symbol: str
    unit: str
    decimals: int

    @property
    def axis(self) -> str:
        """Symbol and unit, as an axis wants them."""
        return f"{self.symbol} ({self.unit})" if self.unit else self.symbol

    def write(self, value: float, *, signed: bool = False, unit: bool = True) -> str:
        """A value with the digits it deserves, and the unit.

        Examples
        --------
        >>> QUANTITIES["teff"].write(-12.3456, signed=True)
        '-12.3 K'
        """
        if value != value:
            return "–"
        text = f"{value:{'+' if signed else ''}.{self.decimals}f}"
        return f"{text} {self.unit}" if unit and self.unit else text


QUANTITIES: dict[str, Quantity] = {
    "teff": Quantity("Teff", "K", 1),
    "logg": Quantity("log g", "dex", 3),
    "mh": Quantity("[M/H]", "dex", 3),
    "alpha_m": Quantity("[α/M]", "dex", 3),
    "rv": Quantity("RV", "km/s", 2),
}
"""Quantities by their names in this package."""


def describe_quantity(name: str) -> Quantity:
    """How `name` is written; unknown names are written as they are."""
    return QUANTITIES.get(name, Quantity(name, "", 3))


def render_png(figure: Figure, *, dpi: int = 130) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": ""})
    return buffer.getvalue()
