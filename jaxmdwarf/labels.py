"""Stellar labels: one registry of what each is and how it is written, and spaces of several."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxmdwarf.errors import UsageError
from jaxmdwarf.quality import QualityFlag

GENERIC_UCD = "stat.param"
"""UCD of a label of which nothing else is known."""


@dataclass(frozen=True)
class Label:
    """One stellar label: its unit, how it is written, its column in catalogues, its flag.

    Parameters
    ----------
    name : str
        In this package: of grids, models and results.
    unit : str
        As astropy reads it; empty for pure numbers.
    symbol : str
        Plain text for figures and tables; `name` if left out.
    tex : str
        The symbol in TeX, for figures; `symbol` if left out.
    column, error_column : str
        In catalogues: plain identifiers. Made of `name`, and of `column`, if left out.
    ucd : str
        IVOA unified content descriptor (UCD1+).
    description : str
        One sentence for the headers of catalogues.
    lower, upper : float
        Default bounds of a model; NaN where there are none.
    plausible : (float, float)
        Values in other people's tables that a star can have; others are read as missing.
    decimals : int
        Digits after the point that make sense.
    flag_bit : QualityFlag
        Raised where the label is at a bound of the model.
    aliases : tuple of str
        Columns of other people's tables that hold it: lower case, without blanks, ``_``, ``-`` and
        ``.``. The column and the name are always understood.

    Raises
    ------
    UsageError
        If a column is no plain identifier, or bounds do not increase.

    Examples
    --------
    >>> vsini = Label("vsini", "km/s", "v sin i", column="vsini", lower=0.0, upper=100.0)
    >>> vsini.axis, vsini.error_column, vsini.flag_bit.name
    ('v sin i (km/s)', 'e_vsini', 'LABEL_AT_BOUND')
    """

    name: str
    unit: str = ""
    symbol: str = ""
    tex: str = ""
    column: str = ""
    error_column: str = ""
    ucd: str = GENERIC_UCD
    description: str = ""
    lower: float = math.nan
    upper: float = math.nan
    plausible: tuple[float, float] = (-math.inf, math.inf)
    decimals: int = 3
    flag_bit: QualityFlag = QualityFlag.LABEL_AT_BOUND
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # A frozen dataclass fills its own blanks, so that every label is complete.
        def fill(field: str, value: object) -> None:
            if not getattr(self, field):
                object.__setattr__(self, field, value)

        fill("column", _as_identifier(self.name))
        fill("error_column", f"e_{self.column}")
        fill("symbol", self.name)
        fill("tex", self.symbol)
        fill("description", self.symbol)
        for column in (self.column, self.error_column):
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", column):
                raise UsageError(
                    f"{column!r} of label {self.name!r} is no plain column name.",
                    "begin with a letter and use letters, digits and _ alone.",
                )
        if self.lower >= self.upper:
            raise UsageError(
                f"label {self.name!r} has bounds {self.lower}..{self.upper}: they must increase."
            )
        object.__setattr__(self, "flag_bit", QualityFlag(self.flag_bit))

    @property
    def axis(self) -> str:
        """Symbol and unit, as an axis wants them."""
        return f"{self.symbol} ({self.unit})" if self.unit else self.symbol

    @property
    def spellings(self) -> tuple[str, ...]:
        """All names of columns that hold this label, as `normalise_column` writes them."""
        own = (self.column, self.name, self.symbol)
        return tuple(dict.fromkeys([*map(normalise_column, own), *self.aliases]))

    def write(self, value: float, *, signed: bool = False, unit: bool = True) -> str:
        """A value with the digits it deserves, and the unit.

        Examples
        --------
        >>> LABELS["teff"].write(-12.3456, signed=True)
        '-12.3 K'
        """
        if value != value:
            return "–"
        text = f"{value:{'+' if signed else ''}.{self.decimals}f}"
        return f"{text} {self.unit}" if unit and self.unit else text


def normalise_column(name: str) -> str:
    """A column name as names are compared: lower case, without blanks, ``_``, ``-`` and ``.``.

    Examples
    --------
    >>> normalise_column("T_eff"), normalise_column("[Fe/H]")
    ('teff', '[fe/h]')
    """
    return re.sub(r"[\s_.\-]", "", name.lower())


def _as_identifier(name: str) -> str:
    plain = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    return plain if plain[:1].isalpha() else f"label_{plain}"


LABELS: dict[str, Label] = {
    label.name: label
    for label in (
        Label(
            "teff",
            "K",
            "Teff",
            r"$T_\mathrm{eff}$",
            "Teff",
            ucd="phys.temperature.effective",
            description="Effective temperature",
            lower=2500.0,
            upper=4600.0,
            plausible=(1500.0, 12000.0),
            decimals=1,
            flag_bit=QualityFlag.TEFF_AT_BOUND,
            aliases=("teffk", "temperature", "teffapogee"),
        ),
        Label(
            "logg",
            "dex",
            "log g",
            r"$\log\,g$",
            "Logg",
            ucd="phys.gravity",
            description="Surface gravity, log10 of it in cm s-2",
            lower=3.5,
            upper=6.5,
            plausible=(-1.0, 7.0),
            flag_bit=QualityFlag.LOGG_AT_BOUND,
            aliases=("loggcgs", "gravity"),
        ),
        Label(
            "mh",
            "dex",
            "[M/H]",
            r"$[\mathrm{M/H}]$",
            "M_H",
            ucd="phys.abund.Z",
            description="Overall metallicity [M/H] in dex",
            lower=-2.5,
            upper=1.0,
            plausible=(-5.0, 1.5),
            flag_bit=QualityFlag.MH_AT_BOUND,
            aliases=("metallicity", "mhapogee", "[fe/h]", "feh"),
        ),
        Label(
            "alpha_m",
            "dex",
            "[α/M]",
            r"$[\alpha/\mathrm{M}]$",
            "alpha_M",
            ucd="phys.abund",
            description="Alpha elements over metals [alpha/M] in dex",
            lower=-0.2,
            upper=0.7,
            plausible=(-2.0, 2.0),
            flag_bit=QualityFlag.ALPHA_AT_BOUND,
            aliases=("[alpha/m]", "[a/m]", "am", "[alpha/fe]", "alphafe", "afe"),
        ),
    )
}
"""Labels by name. `register_label` adds to them; nothing else in the package has to be told."""

VELOCITY = Label(
    "rv",
    "km/s",
    "RV",
    "RV",
    "RV",
    ucd="spect.dopplerVeloc.opt",
    description="Radial velocity, positive receding",
    plausible=(-3000.0, 3000.0),
    decimals=2,
    flag_bit=QualityFlag.VELOCITY_AT_EDGE,
    aliases=("rvkms", "radialvelocity", "hrv", "vrad", "rvapogee", "rvgaia"),
)
"""The velocity: fitted beside the labels and written like them, but no label of any model."""


def register_label(label: Label) -> Label:
    """Make a label known: its column, units, flag, names and figures, everywhere in the package.

    Registering an equal label again changes nothing; another one of the same name replaces it.

    Parameters
    ----------
    label : Label

    Returns
    -------
    Label
        The same.

    Raises
    ------
    UsageError
        If the name is that of the velocity, or a column that of something else.

    Examples
    --------
    >>> register_label(Label("c_o", "dex", "[C/O]", column="C_O", ucd="phys.abund")).error_column
    'e_C_O'
    >>> describe_label("c_o").symbol
    '[C/O]'
    >>> del LABELS["c_o"]
    """
    others = [one for one in (*LABELS.values(), VELOCITY) if one.name != label.name]
    if label.name == VELOCITY.name:
        raise UsageError(f"{label.name!r} is the velocity.", "choose another name for the label.")
    taken = dict.fromkeys(_RESERVED_COLUMNS, "something else in every catalogue")
    for one in others:
        taken |= dict.fromkeys((one.column, one.error_column), f"the label {one.name!r}")
    for column in (label.column, label.error_column):
        if column in taken:
            raise UsageError(
                f"column {column!r} is that of {taken[column]}.", "choose another column."
            )
    LABELS[label.name] = label
    return label


_RESERVED_COLUMNS: set[str] = set()


def reserve_columns(names: Iterable[str]) -> None:
    """Tell names of columns that no label may have; `jaxmdwarf.catalogue.columns` does."""
    _RESERVED_COLUMNS.update(names)


def describe_label(name: str, unit: str = "") -> Label:
    """The label of this name, ``"rv"`` included; a generic one where none is registered.

    Examples
    --------
    >>> describe_label("teff").column, describe_label("[C/O]").column
    ('Teff', 'C_O')
    """
    if name == VELOCITY.name:
        return VELOCITY
    return LABELS.get(name) or Label(name, unit)


BOUND_SLACK = 1e-5
"""Share of a label's range by which rounding may carry it beyond a bound."""


@dataclass(frozen=True)
class LabelSpace:
    """Names, units and bounds of stellar labels, and their scaling to [-0.5, 0.5].

    Hashable, so that it can be a static part of a compiled function.

    Parameters
    ----------
    names, units : tuple of str, length n_label
    lower, upper : tuple of float, length n_label
        Physical bounds; they scale to -0.5 and +0.5.

    Examples
    --------
    >>> space = LabelSpace.mdwarf()
    >>> space.names
    ('teff', 'logg', 'mh', 'alpha_m')
    >>> space.scale(np.array(space.upper)).tolist()
    [0.5, 0.5, 0.5, 0.5]
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]

    def __post_init__(self) -> None:
        if not (len(self.names) == len(self.units) == len(self.lower) == len(self.upper) > 0):
            raise UsageError(f"a label space needs one unit and two bounds a label, got {self}.")
        for name, low, high in zip(self.names, self.lower, self.upper, strict=True):
            if not -math.inf < low < high < math.inf:
                raise UsageError(f"label {name!r} has bounds {low}..{high}: they must increase.")
            if self.names.count(name) > 1:
                raise UsageError(f"label {name!r} is named twice.", "give each label once.")

    @classmethod
    def mdwarf(
        cls,
        *,
        teff: tuple[float, float] | None = None,
        logg: tuple[float, float] | None = None,
        mh: tuple[float, float] | None = None,
        alpha_m: tuple[float, float] | None = None,
    ) -> LabelSpace:
        """The four labels of the paper, with bounds in K and dex; None takes those of the registry.

        They reach well beyond the stars of interest: neither a theory whose temperatures are off by
        a few hundred kelvin nor the noise of a faint star may press fits against a bound.
        """
        bounds = {"teff": teff, "logg": logg, "mh": mh, "alpha_m": alpha_m}
        return cls.named(tuple(bounds), bounds={k: v for k, v in bounds.items() if v is not None})

    @classmethod
    def named(
        cls, names: Sequence[str], *, bounds: Mapping[str, tuple[float, float]] | None = None
    ) -> LabelSpace:
        """A space of labels with the units and bounds of the registry.

        Parameters
        ----------
        names : sequence of str
        bounds : mapping of str to (low, high), optional
            In place of those of the registry.

        Raises
        ------
        UsageError
            If a label has no bounds.

        Examples
        --------
        >>> LabelSpace.named(["teff", "mh"], bounds={"teff": (2800.0, 4000.0)}).lower
        (2800.0, -2.5)
        """
        labels = [describe_label(name) for name in names]
        given = bounds or {}
        limits = [given.get(label.name, (label.lower, label.upper)) for label in labels]
        return cls(
            names=tuple(names),
            units=tuple(label.unit for label in labels),
            lower=tuple(float(low) for low, _ in limits),
            upper=tuple(float(high) for _, high in limits),
        )

    @classmethod
    def bounding(cls, names: Sequence[str], units: Sequence[str], labels: np.ndarray) -> LabelSpace:
        """The smallest space that holds all rows of `labels`, shape (n, n_label)."""
        labels = np.asarray(labels, dtype=np.float64)
        return cls(
            names=tuple(names),
            units=tuple(units),
            lower=tuple(labels.min(axis=0).tolist()),
            upper=tuple(labels.max(axis=0).tolist()),
        )

    @property
    def n_label(self) -> int:
        """Number of labels."""
        return len(self.names)

    def index(self, name: str) -> int:
        """Position of label `name`; raises `UsageError` naming the labels there are."""
        if name not in self.names:
            raise UsageError(f"label {name!r} is unknown.", f"use one of {', '.join(self.names)}.")
        return self.names.index(name)

    def scale(self, labels):
        """Physical labels (..., n_label) to scaled ones; numpy or JAX arrays, dtype kept."""
        lower, width = self._bounds(labels)
        return (labels - lower) / width - 0.5

    def unscale(self, scaled):
        """Scaled labels (..., n_label) back to physical units; the inverse of `scale`."""
        lower, width = self._bounds(scaled)
        return (scaled + 0.5) * width + lower

    def contains(self, labels, *, slack: float = 0.0):
        """Whether each row of `labels` (..., n_label) lies within the bounds, shape (...).

        Bounds are taken to be wider by `slack` of their range on both sides.
        """
        lower, width = self._bounds(labels)
        more = np.asarray(slack, width.dtype) * width
        upper = np.asarray(self.upper, width.dtype)  # lower + width may round below it
        return ((labels >= lower - more) & (labels <= upper + more)).all(axis=-1)

    def require_inside(self, labels: np.ndarray) -> None:
        """Raise `UsageError`, naming the label, unless each row of `labels` is within the bounds.

        Rounding of single precision is forgiven.
        """
        rows = np.asarray(labels, np.float64).reshape(-1, self.n_label)
        for name, values in zip(self.names, rows.T, strict=True):
            self.require_label_inside(name, values)

    def require_label_inside(self, name: str, values: np.ndarray) -> None:
        """Raise `UsageError` unless all values of the label `name` are within its bounds."""
        index = self.index(name)
        low, high = self.lower[index], self.upper[index]
        more = BOUND_SLACK * (high - low)
        values = np.atleast_1d(np.asarray(values, np.float64))
        wrong = ~((values >= low - more) & (values <= high + more))
        if wrong.any():
            raise UsageError(
                f"{name} = {values[wrong][0]:g} {self.units[index]} lies outside the model, "
                f"which knows {low:g} to {high:g}.",
                "give labels within these bounds, or use a model that reaches further.",
            )

    def _bounds(self, like) -> tuple[np.ndarray, np.ndarray]:
        dtype = like.dtype if np.issubdtype(like.dtype, np.floating) else np.float64
        lower = np.asarray(self.lower, dtype=dtype)
        return lower, np.asarray(self.upper, dtype=dtype) - lower
