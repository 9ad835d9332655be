"""Isochrone tables: PARSEC as its web form writes it, MIST, and plain CSV.

=====================  =========================================================================
format                 told by
=====================  =========================================================================
PARSEC (CMD web form)  ``#`` comments and a commented line of column names before each block;
                       metallicity from MH, or from Z where older tables have nothing else
MIST ``.iso``          ``# MIST version`` in the first line; abundances in the header
MIST ``.iso.cmd``      the same, fewer physical columns
CSV                    a first line of column names with commas
=====================  =========================================================================

Files may be gzipped. All come out as one table with the columns of `COLUMNS`.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from jaxmdwarf.errors import FormatError, RejectedInput, UsageError
from jaxmdwarf.io.compression import read_file_bytes

COLUMNS = ("feh", "log_age", "Mini", "mass", "Teff", "logg", "radius", "source")
"""[M/H], log10(age/yr), initial and present mass (Msun), K, cgs, Rsun, name of the file."""

_SPELLINGS: dict[str, tuple[str, ...]] = {
    # The initial value first: surface abundances of dwarfs have settled, labels of grids have not.
    "feh": ("[fe/h]_init", "mh", "[m/h]", "m_h", "[fe/h]", "feh", "fe_h"),
    "z": ("zini", "z"),
    "log_age": ("logage", "log(age/yr)", "log_age", "log10_isochrone_age_yr", "log10_age_yr"),
    "age": ("age", "age_yr"),
    "Mini": ("mini", "m_ini", "initial_mass", "m_mo(ini)"),
    "mass": ("mass", "mact", "m_act", "star_mass"),
    "log_teff": ("logte", "log_teff", "logt", "log(te)"),
    "Teff": ("teff", "teff_k"),
    "logg": ("logg", "log_g"),
    "log_l": ("logl", "logl/lo", "log_l"),
    "log_r": ("log_r", "logr"),
    "radius": ("radius", "r", "radius_rsun"),
}
_TEFF_SUN, _LOGG_SUN = 5772.0, 4.438
_Z_OVER_X_SUN = 0.0207
_DWARF_MASS, _DWARF_LOGG, _SAME_LOGG_DEX = 0.7, (3.5, 6.0), 0.3


def read_isochrones(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> dict[str, np.ndarray]:
    """Read isochrones of one or several files into one table.

    Parameters
    ----------
    paths : path or iterable of paths
        A MIST file holds one metallicity, so give several; a PARSEC file holds as many as were
        asked for.

    Returns
    -------
    dict of arrays (n,)
        The columns of `COLUMNS`, one row a point: what `isochrone_relation` and
        `training.labels.isochrones.isochrone_points` take. ``feh`` is [M/H]: where a table
        gives [Fe/H] and [alpha/Fe], [M/H] follows from both (Salaris et al. 1993, ApJ 414 580);
        where it gives only Z, from Y = 0.2485 + 1.78 Z and (Z/X)sun = 0.0207 (PARSEC; Bressan et
        al. 2012, MNRAS 427 127).

    Raises
    ------
    UsageError
        If there is no such file.
    FormatError
        If a file is no isochrone table, is cut off, or lacks a column.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    tables = [_read_one(Path(path)) for path in paths]
    if not tables:
        raise UsageError("no isochrone file was given.", "name at least one.")
    return {name: np.concatenate([table[name] for table in tables]) for name in COLUMNS}


def metallicity_of_z(z: np.ndarray) -> np.ndarray:
    """[M/H] of a PARSEC metal mass fraction.

    Examples
    --------
    >>> metallicity_of_z(np.array([0.01, 0.0152])).round(3).tolist()
    [-0.176, 0.015]
    """
    z = np.asarray(z, dtype=float)
    return np.log10(z / (1 - 0.2485 - 2.78 * z) / _Z_OVER_X_SUN)


def _read_one(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UsageError(f"there is no isochrone file {path}.", "check the path.")
    lines = _read_lines(path)
    filled = [line for line in lines if line.strip()]
    if not filled:
        raise FormatError(f"{path} is empty.", "download it again.")
    if filled[0].lstrip().startswith("<"):
        raise FormatError(
            f"{path} is a web page, not a table.", "save the output file that the page links to."
        )
    commented = any(line.startswith("#") for line in filled[:20])
    raw = _parse_blocks(lines, path) if commented else _parse_csv(lines, path)
    table = _convert(raw, path)
    return {**table, "source": np.full(table["feh"].size, path.name)}


def _read_lines(path: Path) -> list[str]:
    try:
        return read_file_bytes(path).decode("utf-8").splitlines()
    except RejectedInput as error:
        raise FormatError(f"{path}: {error.message}", error.remedy) from None
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path} cannot be read as text: {error}.", "give the table itself, unpacked."
        ) from None


def _parse_csv(lines: Sequence[str], path: Path) -> dict[str, np.ndarray]:
    import pandas as pd

    try:
        frame = pd.read_csv(io.StringIO("\n".join(lines)))
    except Exception as error:  # pandas raises many kinds
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise FormatError(f"{path} cannot be read as CSV: {line}.", "check the file.") from None
    return {
        str(name): pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float)
        for name in frame.columns
    }


def _parse_blocks(lines: Sequence[str], path: Path) -> dict[str, np.ndarray]:
    """Blocks of numbers, each under a comment that names its columns; comments before it may
    hold what the block itself does not: abundances (MIST), Z and age (old PARSEC tables)."""
    names: list[str] = []
    about: dict[str, float] = {}
    expected: int | None = None
    blocks: list[tuple[list[str], dict[str, float], list[list[str]]]] = []
    previous: list[str] = []
    fresh = True
    for number, line in enumerate(lines, start=1):
        if line.startswith("#"):
            words = line.lstrip("#").split()
            about.update(_read_comment(words, previous, line))
            if "terminated" not in line and _names_columns(words):
                names = words
            counted = re.match(r"#\s*number of EEPs, cols\s*=\s*(\d+)", line)
            if counted or _names_columns(words):
                _require_rows(blocks, expected, path)
                expected = int(counted.group(1)) if counted else expected
            previous, fresh = words, True
            continue
        words = line.split()
        if not words:
            continue
        if not names:
            if _names_columns(words):  # a header that lost its comment sign
                names = words
                continue
            raise FormatError(
                f"{path}, line {number}: numbers come before any line of column names.",
                "keep the header of the file; it names columns such as logAge, Mini, logTe, logg.",
            )
        if fresh:
            blocks.append((names, dict(about), []))
            fresh = False
        if len(words) != len(names):
            raise FormatError(
                f"{path}, line {number}: {len(words)} numbers under {len(names)} column names.",
                "the file seems cut off or edited: download it again.",
            )
        blocks[-1][2].append(words)
    _require_rows(blocks, expected, path)
    if not blocks:
        raise FormatError(f"{path} holds no isochrone.", "download it again.")
    return _join(blocks, path)


def _names_columns(words: Sequence[str]) -> bool:
    lower = {word.lower() for word in words}
    return any(name in lower for name in _SPELLINGS["Mini"]) and any(
        name in lower for key in ("log_teff", "Teff") for name in _SPELLINGS[key]
    )


def _read_comment(words: Sequence[str], previous: Sequence[str], line: str) -> dict[str, float]:
    """Abundances of MIST (names in one comment, numbers in the next); Z and age of old PARSEC."""
    found: dict[str, float] = {}
    if len(previous) == len(words) > 2 and "[Fe/H]" in previous and "[a/Fe]" in previous:
        for key, name in (("feh", "[Fe/H]"), ("alpha_fe", "[a/Fe]")):
            value = _number(words[previous.index(name)])
            if value is not None:
                found[key] = value
    if "isochrone" in line.lower() and "=" in line:
        for key, pattern in (
            ("z", r"\bZ\s*=\s*([\d.eE+-]+)"),
            ("age", r"\bAge\s*=\s*([\d.eE+-]+)"),
        ):
            match = re.search(pattern, line, flags=re.IGNORECASE)
            value = _number(match.group(1)) if match else None
            if value is not None:
                found[key] = value
    return found


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _require_rows(blocks, expected: int | None, path: Path) -> None:
    if expected is not None and blocks and len(blocks[-1][2]) < expected:
        raise FormatError(
            f"{path}: isochrone {len(blocks)} has {len(blocks[-1][2])} of its {expected} points.",
            "the file seems cut off: download it again.",
        )


def _join(blocks, path: Path) -> dict[str, np.ndarray]:
    parts: list[dict[str, np.ndarray]] = []
    for names, about, rows in blocks:
        try:
            numbers = np.asarray(rows, dtype=float)
        except ValueError as error:
            raise FormatError(f"{path}: {error}.", "download it again.") from None
        part = {name: numbers[:, k] for k, name in enumerate(names)}
        for key, value in about.items():
            part[f"about {key}"] = np.full(len(rows), value)
        parts.append(part)
    keys = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in keys}


def _convert(raw: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Raw columns of any spelling to those of `COLUMNS`."""
    found: dict[str, np.ndarray] = {}
    lower = {name.lower().strip(): name for name in reversed(list(raw))}
    for key, spellings in _SPELLINGS.items():
        name = next((lower[guess] for guess in spellings if guess in lower), None)
        if name is not None:
            found[key] = raw[name]
    columns = {
        "feh": _metallicity(found, raw),
        "log_age": _log_age(found, raw),
        "Mini": found.get("Mini"),
        "Teff": found.get("Teff", 10 ** found["log_teff"] if "log_teff" in found else None),
    }
    missing = [name for name, values in columns.items() if values is None]
    if not missing:
        columns["mass"] = found.get("mass", columns["Mini"])
        columns["radius"], columns["logg"] = _radius_and_gravity(found, columns)
        missing = [name for name in ("radius", "logg") if columns[name] is None]
    if missing:
        names = [name for name in raw if not name.startswith("about ")]
        raise FormatError(
            f"{path} has no column for {', '.join(missing)}; it has {', '.join(names[:30])}.",
            "give metallicity (MH or Z), age (logAge), initial mass (Mini), temperature (logTe) "
            "and one of log g, radius and luminosity.",
        )
    table = {name: np.asarray(values, dtype=float) for name, values in columns.items()}
    whole = np.all([np.isfinite(values) for values in table.values()], axis=0)
    if not whole.any():
        raise FormatError(f"{path} holds no row of numbers.", "download it again.")
    return {name: values[whole] for name, values in table.items()}


def _metallicity(found, raw) -> np.ndarray | None:
    if "feh" in found:
        metallicity = found["feh"]
    elif "about feh" in raw:
        metallicity = raw["about feh"]
    elif "z" in found or "about z" in raw:
        return metallicity_of_z(found.get("z", raw.get("about z")))
    else:
        return None
    alpha = raw.get("about alpha_fe")
    if alpha is None:
        return metallicity
    return metallicity + np.log10(0.638 * 10**alpha + 0.362)


def _log_age(found, raw) -> np.ndarray | None:
    if "log_age" in found:
        return found["log_age"]
    age = found.get("age", raw.get("about age"))
    if age is None:
        return None
    # Some tables call log10(age) "age": no star is younger than a thousand years.
    return np.where(age > 1e3, np.log10(np.maximum(age, 1.0)), age)


def _is_radius(radius: np.ndarray, mass: np.ndarray, logg: np.ndarray | None) -> bool:
    """Whether it is one, by the gravity that it makes with the mass: as given, or of dwarfs."""
    low_mass = np.isfinite(radius) & (mass > 0) & (mass < _DWARF_MASS)
    if not low_mass.any() or not (radius[low_mass] > 0).all():
        return not low_mass.any()
    implied = _LOGG_SUN + np.log10(mass[low_mass]) - 2 * np.log10(radius[low_mass])
    if logg is not None:
        return bool(np.nanmedian(np.abs(implied - logg[low_mass])) < _SAME_LOGG_DEX)
    return bool(_DWARF_LOGG[0] < np.median(implied) < _DWARF_LOGG[1])


def _radius_and_gravity(found, columns) -> tuple[np.ndarray | None, np.ndarray | None]:
    mass, teff = columns["mass"], columns["Teff"]
    radius, logg = found.get("radius"), found.get("logg")
    if radius is not None and not _is_radius(radius, mass, logg):
        radius = None  # a magnitude, which many tables call R
    if radius is None and "log_r" in found:
        radius = 10 ** found["log_r"]
    if radius is None and logg is not None:
        radius = np.sqrt(mass * 10 ** (_LOGG_SUN - logg))
    if radius is None and "log_l" in found:
        radius = 10 ** (0.5 * found["log_l"]) * (_TEFF_SUN / teff) ** 2
    if logg is None and radius is not None:
        logg = _LOGG_SUN + np.log10(mass) - 2 * np.log10(radius)
    return radius, logg
