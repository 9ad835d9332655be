"""The domain gap: every way in which simulated nature differs from theory, named and switchable."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from jaxmdwarf.errors import UsageError

if TYPE_CHECKING:
    from jaxmdwarf.simulate.synthesis import Physics

BAND_STRENGTHS: dict[str, float] = {
    "TiO gamma": 1.22,
    "TiO gamma_prime": 0.80,
    "TiO epsilon": 1.45,
    "TiO delta": 0.75,
    "TiO phi": 1.30,
    "TiO beta": 0.85,
    "VO B_X": 1.35,
    "VO C_X": 0.78,
    "CaH A_X": 0.80,
    "CaH B_X": 1.25,
    "MgH A_X": 1.20,
}
"""Nature's band strengths over theory's at full gap: published oscillator strengths differ so."""

UNKNOWN_OPACITY: dict[str, float] = {"VO A_X": 3.0, "FeH F_X": 2.2, "CaOH A_X": 2.5}
"""Nature's strength, at full gap, of systems of which theory knows only a part."""

TEMPERATURE_GRADIENT = -0.025
SURFACE_COOLING = -0.02
DAMPING_SCALE = 1.7
ATOMIC_SHIFT_FRACTION = 0.15
ATOMIC_SHIFT_AA = 0.4
ATOMIC_MISSING_FRACTION = 0.15
ATOMIC_STRENGTH_SCATTER_DEX = 0.15
IVAR_FACTOR = 1.3

PHYSICS_CAUSES = (
    "band_strengths",
    "missing_systems",
    "damping",
    "temperature_structure",
    "atomic_lines",
)
STELLAR_CAUSES = ("chromosphere",)
INSTRUMENT_CAUSES = (
    "lsf_shape",
    "lsf_variation",
    "flux_calibration",
    "wavelength_solution",
    "telluric_residuals",
    "sky_residuals",
    "cosmic_rays",
    "dead_pixels",
)
NOISE_CAUSES = ("ivar_error",)
CAUSES = PHYSICS_CAUSES + STELLAR_CAUSES + INSTRUMENT_CAUSES + NOISE_CAUSES
"""Every cause, in the order of the fields of `DomainGap`."""

_GROUPS = {
    "physics": PHYSICS_CAUSES,
    "stellar": STELLAR_CAUSES,
    "instrument": INSTRUMENT_CAUSES,
    "noise": NOISE_CAUSES,
}


@dataclass(frozen=True)
class DomainGap:
    """How far nature is from theory: one strength a cause, 0 (off) to 1 (as documented).

    Strengths scale the amplitude, except for `cosmic_rays` and `dead_pixels`, where they scale how
    many there are. Each cause draws its accidents from a random stream of its own, so that
    switching one on or off leaves the others, and the noise, as they were.

    Examples
    --------
    >>> DomainGap.only("telluric_residuals").active
    ('telluric_residuals',)
    >>> DomainGap.full().scaled(0.5).flux_calibration
    0.5
    >>> DomainGap.none().physics_differs
    False
    """

    band_strengths: float = 1.0
    """Oscillator strengths of TiO, VO, CaH and MgH band systems off by 15 to 45 per cent."""
    missing_systems: float = 1.0
    """Opacity missing from theory: nature has 2 to 3 times the VO A-X, FeH and CaOH it knows."""
    damping: float = 1.0
    """Pressure-broadening constants of atomic lines 1.7 times larger."""
    temperature_structure: float = 1.0
    """T(tau) 2.5 per cent shallower about the photosphere, and a surface 2 per cent warmer."""
    atomic_lines: float = 1.0
    """Weaker atomic lines: 15 per cent shifted by 0.4 A, 15 per cent absent, log gf off by 0.15."""
    chromosphere: float = 1.0
    """Halpha in absorption in quiet stars; in emission in active ones, with Ca II filled in."""
    lsf_shape: float = 1.0
    """Line-spread function with h4 = 0.05 and 5 per cent of the light in wings 3 times wider."""
    lsf_variation: float = 1.0
    """Width varying by 8 per cent (1 sigma) with fibre and by up to 12 per cent with wavelength."""
    flux_calibration: float = 1.0
    """Smooth response curves: 10 per cent (1 sigma) tilts and bends, different for each fibre."""
    wavelength_solution: float = 1.0
    """Wiggles of 4 km/s (1 sigma) in the wavelength solution, and a zero point off by 2 km/s."""
    telluric_residuals: float = 1.0
    """Absorption in the O2 A, B and gamma and three H2O bands corrected wrongly by 20 per cent."""
    sky_residuals: float = 1.0
    """Night-sky lines subtracted wrongly by 3 per cent (1 sigma), and 0.05 A out of place."""
    cosmic_rays: float = 1.0
    """About 3 hits a spectrum, a third of which the pipeline did not recognise."""
    dead_pixels: float = 1.0
    """Runs of bad columns (about 1 per cent of the pixels), flux 0 and ivar 0."""
    ivar_error: float = 1.0
    """Stated inverse variances 1.3 times too large."""

    def __post_init__(self) -> None:
        for name in CAUSES:
            if not (math.isfinite(getattr(self, name)) and 0 <= getattr(self, name) <= 3):
                raise UsageError(
                    f"domain-gap cause {name} has strength {getattr(self, name)!r}.",
                    "use a number from 0 (off) to 1 (as documented), 3 at most.",
                )

    @classmethod
    def none(cls) -> DomainGap:
        """No gap: nature is theory seen through an ideal instrument; photon noise stays."""
        return cls(**dict.fromkeys(CAUSES, 0.0))

    @classmethod
    def full(cls) -> DomainGap:
        """All causes at their documented strength."""
        return cls()

    @classmethod
    def only(cls, *causes: str) -> DomainGap:
        """Just the named causes; a prefix names all causes that begin with it.

        ``physics``, ``stellar``, ``instrument`` and ``noise`` name groups.

        Raises
        ------
        UsageError
            If a name matches no cause.
        """
        return replace(cls.none(), **dict.fromkeys(_resolve(causes), 1.0))

    @classmethod
    def parse(cls, text: str) -> DomainGap:
        """Read ``0``, ``1``, ``0.5`` (all causes scaled) or ``telluric,lsf=0.5`` (only those).

        Examples
        --------
        >>> DomainGap.parse("telluric, flux_calibration=0.5").active
        ('flux_calibration', 'telluric_residuals')
        """
        text = text.strip()
        try:
            return cls.full().scaled(float(text))
        except ValueError:
            pass
        gap = cls.none()
        for item in text.split(","):
            name, _, strength = item.partition("=")
            try:
                value = float(strength) if strength else 1.0
            except ValueError:
                raise UsageError(
                    f"domain gap {item.strip()!r} has no number after the equals sign.",
                    "write for example telluric=0.5.",
                ) from None
            gap = replace(gap, **dict.fromkeys(_resolve([name]), value))
        return gap

    def scaled(self, factor: float) -> DomainGap:
        """The same causes, all strengths times `factor`."""
        return replace(self, **{name: getattr(self, name) * factor for name in CAUSES})

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the causes that are on."""
        return tuple(name for name in CAUSES if getattr(self, name) > 0)

    @property
    def physics_differs(self) -> bool:
        """Whether nature needs opacity tables of its own."""
        return any(getattr(self, name) > 0 for name in PHYSICS_CAUSES)

    @property
    def ivar_factor(self) -> float:
        """Stated over true inverse variance."""
        return 1.0 + (IVAR_FACTOR - 1.0) * self.ivar_error

    def physics(self, *, seed: int = 0) -> Physics:
        """Nature's physics; `seed` chooses which atomic lines are wrong.

        Without physics causes this is the default `Physics`, whatever the seed, so that tables of
        theory can be used again.
        """
        from jaxmdwarf.simulate.synthesis import Physics

        theory = Physics()
        if not self.physics_differs:
            return theory
        strengths = {
            system: float(value**by)
            for known, by in (
                (BAND_STRENGTHS, self.band_strengths),
                (UNKNOWN_OPACITY, self.missing_systems),
            )
            for system, value in known.items()
            if by > 0
        }
        atoms = self.atomic_lines
        return replace(
            theory,
            system_strength=tuple(strengths.items()),
            damping_scale=float(DAMPING_SCALE**self.damping),
            temperature_gradient=TEMPERATURE_GRADIENT * self.temperature_structure,
            surface_cooling=theory.surface_cooling + SURFACE_COOLING * self.temperature_structure,
            atomic_shift_fraction=ATOMIC_SHIFT_FRACTION if atoms else 0.0,
            atomic_shift_aa=ATOMIC_SHIFT_AA * atoms,
            atomic_missing_fraction=min(1.0, ATOMIC_MISSING_FRACTION * atoms),
            atomic_strength_scatter_dex=ATOMIC_STRENGTH_SCATTER_DEX * atoms,
            seed=seed,
        )

    def describe(self) -> dict[str, float]:
        """Strength of each active cause, for headers and provenance."""
        return {name: float(getattr(self, name)) for name in self.active}


def _resolve(names: Iterable[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        key = name.strip().lower().replace("-", "_")
        matches = list(_GROUPS.get(key, ())) or [
            cause for cause in CAUSES if key and cause.startswith(key)
        ]
        if not matches:
            raise UsageError(
                f"domain-gap cause {name.strip()!r} is unknown.",
                f"use a number from 0 to 1, or some of: {', '.join((*_GROUPS, *CAUSES))}.",
            )
        found += matches
    return found


if tuple(item.name for item in fields(DomainGap)) != CAUSES:  # pragma: no cover
    raise AssertionError("the causes and the fields of DomainGap have drifted apart")
