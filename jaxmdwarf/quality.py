"""Quality flags: why a number should be trusted or not, one documented bit for each reason."""

from __future__ import annotations

from enum import IntFlag
from typing import NamedTuple

import numpy as np


class QualityFlag(IntFlag):
    """Bits of the ``flags`` column; 0 means nothing is known against the row.

    `FLAG_TABLE` documents each bit: what it means, what to do, whether a row with it can be used.
    Bits are never renumbered: a catalogue keeps its meaning when the package grows.
    """

    OK = 0
    NOT_CONVERGED = 1 << 0
    TEFF_AT_BOUND = 1 << 1
    LOGG_AT_BOUND = 1 << 2
    MH_AT_BOUND = 1 << 3
    ALPHA_AT_BOUND = 1 << 4
    LOW_SNR = 1 << 5
    FEW_PIXELS = 1 << 6
    BAD_CHI2 = 1 << 7
    VELOCITY_AT_EDGE = 1 << 8
    MULTIPLE_MINIMA = 1 << 9
    INPUT_NAN = 1 << 10
    FAST_PATH_DISAGREED = 1 << 11
    BAD_COVARIANCE = 1 << 12
    NO_HEADER_VELOCITY = 1 << 13
    NO_GOOD_PIXELS = 1 << 14
    FALLBACK_VELOCITY = 1 << 15
    LABEL_AT_BOUND = 1 << 16
    NOT_M_DWARF = 1 << 17
    NOT_STELLAR_VELOCITY = 1 << 18
    PRIOR_DOMINATED = 1 << 19
    OUT_OF_DOMAIN = 1 << 20
    HIGH_CHI2 = 1 << 21
    VELOCITY_UNLIKE_HEADER = 1 << 22
    TOO_HOT = 1 << 23
    LOGG_NEAR_BOUND = 1 << 24
    LARGE_ERROR = 1 << 25
    YOUNG = 1 << 26
    OUTLIERS_CLIPPED = 1 << 27
    WAVELENGTH_DRIFT = 1 << 28


class FlagNote(NamedTuple):
    """What one bit says.

    Parameters
    ----------
    meaning : str
        What was found.
    advice : str
        What a user of the catalogue can do about it.
    harmful : bool
        Whether a row with this bit is not `good`: its labels or its velocity should not be used.
    """

    meaning: str
    advice: str
    harmful: bool


FLAG_TABLE: dict[QualityFlag, FlagNote] = {
    QualityFlag.NOT_CONVERGED: FlagNote(
        "the fit stopped at its iteration limit",
        "leave the row out, or fit it again with more iterations",
        True,
    ),
    QualityFlag.TEFF_AT_BOUND: FlagNote(
        "Teff at a bound of the model",
        "take Teff as a limit: the star may be hotter or cooler than the model reaches",
        True,
    ),
    QualityFlag.LOGG_AT_BOUND: FlagNote(
        "log g at a bound of the model",
        "take log g as a limit: the star may be a giant",
        True,
    ),
    QualityFlag.MH_AT_BOUND: FlagNote(
        "[M/H] at a bound of the model",
        "take [M/H] as a limit: the star may be a subdwarf",
        True,
    ),
    QualityFlag.ALPHA_AT_BOUND: FlagNote(
        "[alpha/M] at a bound of the model",
        "take [alpha/M] as a limit; the other labels lean on it",
        True,
    ),
    QualityFlag.LOW_SNR: FlagNote(
        "signal-to-noise below 5 in r or i",
        "leave the row out, or use its errors as they are",
        True,
    ),
    QualityFlag.FEW_PIXELS: FlagNote(
        "fewer than half of the unmasked pixels are good",
        "look at the spectrum before using the row",
        True,
    ),
    QualityFlag.BAD_CHI2: FlagNote(
        "reduced chi-square above 50",
        "leave the row out: the object may be no M dwarf",
        True,
    ),
    QualityFlag.VELOCITY_AT_EDGE: FlagNote(
        "velocity at the edge of the searched range",
        "leave the row out: neither velocity nor labels are those of the star",
        True,
    ),
    QualityFlag.MULTIPLE_MINIMA: FlagNote(
        "two solutions compete",
        "look at the secondary minimum; the star may be a binary",
        False,
    ),
    QualityFlag.INPUT_NAN: FlagNote(
        "non-finite pixels in the file were masked",
        "nothing: those pixels were not used",
        False,
    ),
    QualityFlag.FAST_PATH_DISAGREED: FlagNote(
        "the expensive model moved the solution of its surrogate by > 0.1 sigma",
        "nothing: the labels are those of the expensive model",
        False,
    ),
    QualityFlag.BAD_COVARIANCE: FlagNote(
        "indefinite curvature: errors are NaN",
        "leave the row out: its labels have no errors",
        True,
    ),
    QualityFlag.NO_HEADER_VELOCITY: FlagNote(
        "no header velocity: 0 km/s assumed",
        "give velocities in a table, or take spectral type and activity with care",
        False,
    ),
    QualityFlag.NO_GOOD_PIXELS: FlagNote(
        "every pixel is masked", "leave the row out: there is no spectrum", True
    ),
    QualityFlag.FALLBACK_VELOCITY: FlagNote(
        "header velocity taken in place of a measured one",
        "compare RV with other sources before using it",
        False,
    ),
    QualityFlag.LABEL_AT_BOUND: FlagNote(
        "a label without a bit of its own at a bound of the model",
        "compare the further labels with the bounds of the model; take the one there as a limit",
        True,
    ),
    QualityFlag.NOT_M_DWARF: FlagNote(
        "bands of TiO, CaH or lines of Na that no M dwarf has",
        "leave the row out; the column kind says what the object is",
        True,
    ),
    QualityFlag.NOT_STELLAR_VELOCITY: FlagNote(
        "header velocity beyond 1500 km/s, which no star has: not applied",
        "take type and activity with care, unless the fit found the velocity; look at kind",
        False,
    ),
    QualityFlag.PRIOR_DOMINATED: FlagNote(
        "more than half of the information on Teff is the priors'",
        "compare errors with the scatter of the priors, or fit without priors",
        False,
    ),
    QualityFlag.OUT_OF_DOMAIN: FlagNote(
        "chi-square, residuals or labels unlike those of the stars that the model was trained on",
        "look at the fit before using the row; OutlierScore says how far it is (1 is the limit)",
        False,
    ),
    QualityFlag.HIGH_CHI2: FlagNote(
        "reduced chi-square above 5 times what stars of this S/N have",
        "look at the fit before using the row: the model does not describe this spectrum",
        False,
    ),
    QualityFlag.VELOCITY_UNLIKE_HEADER: FlagNote(
        "fitted velocity further than 50 km/s and 5 errors from that of the header",
        "see which is right: the survey may have taken another object for the star, or wavelengths "
        "in air are taken for vacuum (83 km/s)",
        False,
    ),
    QualityFlag.TOO_HOT: FlagNote(
        "Teff above the limit of the catalogue's cuts (4300 K)",
        "leave the row out: the object may be no M dwarf",
        True,
    ),
    QualityFlag.LOGG_NEAR_BOUND: FlagNote(
        "log g near a bound of the model, by the catalogue's cuts (0.05 dex)",
        "take log g as a limit, or leave the row out",
        True,
    ),
    QualityFlag.LARGE_ERROR: FlagNote(
        "an error of Teff, log g, [M/H] or RV beyond 5 sigma of what the catalogue has",
        "leave the row out, or use its errors as they are",
        True,
    ),
    QualityFlag.YOUNG: FlagNote(
        "median or mean age below the limit of the catalogue's cuts (1 Gyr)",
        "leave the row out: log g of a star this young is not that of the training set",
        True,
    ),
    QualityFlag.OUTLIERS_CLIPPED: FlagNote(
        "pixels far from the model were left out of the fit",
        "nothing where they are few: n_clipped says how many",
        False,
    ),
    QualityFlag.WAVELENGTH_DRIFT: FlagNote(
        "wavelengths that drift along the spectrum were put right, held from 8400 Angstrom on",
        "take RV with care: it stands on the red end; RVDrift says how far off 6500 Angstrom was",
        False,
    ),
}
"""All bits, lowest first."""

FLAG_MEANINGS: dict[QualityFlag, str] = {bit: note.meaning for bit, note in FLAG_TABLE.items()}

HARMFUL_FLAGS = QualityFlag(sum(bit for bit, note in FLAG_TABLE.items() if note.harmful))
"""Flags whose rows are not `good`: what the paper's cuts would remove (section 4)."""


CUT_FLAGS = (
    QualityFlag.TOO_HOT | QualityFlag.LOGG_NEAR_BOUND | QualityFlag.LARGE_ERROR | QualityFlag.YOUNG
)
"""Flags that the cuts of a catalogue alone set, and take off again."""


def describe_flags(flags: int) -> list[str]:
    """The reasons set in `flags`, one sentence each, lowest bit first.

    Examples
    --------
    >>> describe_flags(QualityFlag.LOW_SNR | QualityFlag.BAD_CHI2)
    ['signal-to-noise below 5 in r or i', 'reduced chi-square above 50']
    """
    return [note.meaning for bit, note in FLAG_TABLE.items() if flags & bit]


def find_good(flags: np.ndarray) -> np.ndarray:
    """Rows without a harmful flag: the column ``good``, shape of `flags`, bool.

    Examples
    --------
    >>> find_good(np.array([0, QualityFlag.LOW_SNR, QualityFlag.INPUT_NAN])).tolist()
    [True, False, True]
    """
    return (np.asarray(flags).astype(np.int64) & int(HARMFUL_FLAGS)) == 0


def write_flag_cards() -> dict[str, str]:
    """The flag table as texts by keyword, ``FLAG0`` for bit 0: what travels with a catalogue.

    Examples
    --------
    >>> write_flag_cards()["FLAG10"]
    'INPUT_NAN (1024), still good: non-finite pixels in the file were masked; nothing: those \
pixels were not used'
    """
    return {
        f"FLAG{bit.bit_length() - 1}": f"{bit.name} ({int(bit)}), "
        f"{'not' if note.harmful else 'still'} good: {note.meaning}; {note.advice}"
        for bit, note in FLAG_TABLE.items()
    }


def write_flag_page() -> str:
    """The flag table as a page of the documentation (Markdown)."""
    lines = [
        "# Quality flags",
        "",
        "The column `flags` of every table is a sum of bits; 0 means that nothing is known against",
        "a row. `good` is true where no bit is set that makes a row unfit for use. Bits are never",
        "renumbered. `jaxmdwarf.quality.describe_flags(flags)` tells what a number means.",
        "",
        "| bit | value | name | meaning | good | advice |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {bit.bit_length() - 1} | {int(bit)} | `{bit.name}` | {note.meaning} | "
        f"{'no' if note.harmful else 'yes'} | {note.advice} |"
        for bit, note in FLAG_TABLE.items()
    ]
    return "\n".join(lines) + "\n"
