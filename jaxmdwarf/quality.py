"""Quality flags: why a number should be trusted or not, one documented bit for each reason."""

from __future__ import annotations

from enum import IntFlag


class QualityFlag(IntFlag):
    """Bits of the ``flags`` column; 0 means nothing is known against the row.

    `FLAG_MEANINGS` documents each bit in one line.
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


FLAG_MEANINGS: dict[QualityFlag, str] = {
    QualityFlag.NOT_CONVERGED: "the fit stopped at its iteration limit",
    QualityFlag.TEFF_AT_BOUND: "Teff at a bound of the model",
    QualityFlag.LOGG_AT_BOUND: "log g at a bound of the model",
    QualityFlag.MH_AT_BOUND: "[M/H] at a bound of the model",
    QualityFlag.ALPHA_AT_BOUND: "[alpha/M] at a bound of the model",
    QualityFlag.LOW_SNR: "signal-to-noise below 5 in r or i",
    QualityFlag.FEW_PIXELS: "fewer than half of the unmasked pixels are good",
    QualityFlag.BAD_CHI2: "reduced chi-square above 50",
    QualityFlag.VELOCITY_AT_EDGE: "velocity at the edge of the searched range",
    QualityFlag.MULTIPLE_MINIMA: "two solutions compete",
    QualityFlag.INPUT_NAN: "non-finite pixels in the file were masked",
    QualityFlag.FAST_PATH_DISAGREED: "the exact model moved the fast solution by > 0.1 sigma",
    QualityFlag.BAD_COVARIANCE: "indefinite curvature: errors are NaN",
    QualityFlag.NO_HEADER_VELOCITY: "no header velocity: 0 km/s assumed",
    QualityFlag.NO_GOOD_PIXELS: "every pixel is masked",
    QualityFlag.FALLBACK_VELOCITY: "header velocity taken in place of a measured one",
}


def describe_flags(flags: int) -> list[str]:
    """The reasons set in `flags`, one sentence each, lowest bit first.

    Examples
    --------
    >>> describe_flags(QualityFlag.LOW_SNR | QualityFlag.BAD_CHI2)
    ['signal-to-noise below 5 in r or i', 'reduced chi-square above 50']
    """
    return [text for bit, text in FLAG_MEANINGS.items() if flags & bit]
