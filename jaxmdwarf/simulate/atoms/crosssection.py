"""Line absorption cross-sections of atoms on a temperature and pressure grid.

The absorption coefficient of a species is its number density times the cross-section tabulated
here. Everything else that a star's line opacity depends on (temperature, pressure) is a coordinate
of the table, so a whole grid of atmospheres costs one table and an interpolation per depth point.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmdwarf.errors import UsageError
from jaxmdwarf.simulate.atoms.lines import AtomicLines, load_atomic_species, partition_function
from jaxmdwarf.simulate.atoms.voigt import voigt_profile
from jaxmdwarf.simulate.constants import C_LIGHT, HC_EV_AA, K_BOLTZMANN, K_EV, U_GRAM
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS

CROSS_SECTION_UNIT_CM2 = 1e-16
"""Cross-sections are given in this unit, cm^2: strong alkali cores are then of order 10^4."""

_CLASSICAL_CM2_HZ = 0.02654008854  # pi e^2 / (m_e c)
_SAHA = 4.829366e15  # 2 (2 pi m_e k / h^2)^(3/2), cm^-3 K^-3/2

# Dipole polarisability (A^3) and mass (u) of what the atoms collide with.
_POLARISABILITY = {"H": 0.6668, "H2": 0.8045, "He": 0.2051}
_PERTURBER_MASS = {"H": 1.008, "H2": 2.016, "He": 4.0026}
_DONORS = ("Na", "K", "Ca", "Al", "Mg", "Fe", "Ti", "Rb", "Cs", "Ba", "Sr")

# A line's wing is followed as far as the opacity of K I 7665 falls to the same value at `cutoff_aa`
# (solar abundances, this temperature), but at least _MIN_CUTOFF_AA.
_REFERENCE_TEMPERATURE = 3300.0
_REFERENCE_WING = 10**5.07 * 10**0.149 / 2.0 * 10**-7.44 * 7667.0**2
_MIN_CUTOFF_AA = 3.0
# The last fifth of a wing is brought to zero smoothly, so that no step is left in the opacity.
_TAPER_FROM = 0.8
_SAMPLES_PER_DOPPLER_WIDTH = 3.0
_MAX_SUBSAMPLES = 64


class Perturbers(NamedTuple):
    """Number densities in cm^-3 of what broadens atomic lines, each of the broadcast shape."""

    hydrogen: np.ndarray
    hydrogen_molecule: np.ndarray
    helium: np.ndarray
    electron: np.ndarray


def perturber_densities(
    temperature: Float[np.ndarray, "*#shape"], log10_pressure: Float[np.ndarray, "*#shape"]
) -> Perturbers:
    """Densities of H, H2, He and electrons in a gas of solar composition.

    H2 is in dissociation equilibrium (constant of Tsuji 1973, A&A 23, 411) and electrons come from
    singly ionised metals (Saha). Good enough for line widths; not a substitute for the chemistry.

    Parameters
    ----------
    temperature : Float[np.ndarray, "*#shape"]
        Temperature, K.
    log10_pressure : Float[np.ndarray, "*#shape"]
        log10 of the gas pressure in dyn/cm^2.

    Returns
    -------
    Perturbers
        Number densities, cm^-3.
    """
    t, log_p = np.broadcast_arrays(
        np.asarray(temperature, np.float64), np.asarray(log10_pressure, np.float64)
    )
    pressure = 10.0**log_p
    species = load_atomic_species()
    he_per_h = 10.0 ** (species["He I"].solar_abundance - 12.0)
    theta = 5040.0 / t
    constant = 10.0 ** np.polyval([6.3021e-4, -1.4149e-2, 0.12572, -5.1172, 12.739], theta)
    # p = (1 + y) p_H + (1 + 2 y) p_H^2 / K, in the form that does not cancel.
    b, a = 1.0 + he_per_h, (1.0 + 2.0 * he_per_h) / constant
    p_h = 2.0 * pressure / (b + np.sqrt(b * b + 4.0 * a * pressure))
    p_h2 = p_h**2 / constant
    p_he = he_per_h * (p_h + 2.0 * p_h2)
    kt = K_BOLTZMANN * t
    nuclei = (p_h + 2.0 * p_h2) / kt

    donors = []
    for element in _DONORS:
        neutral = species[f"{element} I"]
        ratio = partition_function(f"{element} II", t) / partition_function(f"{element} I", t)
        saha = _SAHA * t**1.5 * ratio * np.exp(-neutral.ionisation_ev / (K_EV * t))
        donors.append((10.0 ** (neutral.solar_abundance - 12.0) * nuclei, saha))
    low, high = np.full(t.shape, -10.0), np.log10(nuclei)
    for _ in range(50):
        middle = 0.5 * (low + high)
        n_e = 10.0**middle
        excess = sum(n * s / (n_e + s) for n, s in donors) - n_e
        low, high = np.where(excess > 0, middle, low), np.where(excess > 0, high, middle)
    return Perturbers(p_h / kt, p_h2 / kt, p_he / kt, 10.0**low)


class _LineShapes(NamedTuple):
    """What the kernel needs of each line, in pixels: (n_line,) and (n_line, n_t[, n_p])."""

    centre: np.ndarray
    doppler: np.ndarray
    hwhm: np.ndarray
    strength: np.ndarray
    cutoff: np.ndarray


def _log_grid_step(wave_aa: np.ndarray) -> float:
    """The constant step in ln(wave) of a grid; raises where the grid is not logarithmic."""
    if wave_aa.ndim != 1 or wave_aa.size < 2:
        raise UsageError(f"wave_aa must be one-dimensional, got shape {wave_aa.shape}.")
    ln_wave = np.log(wave_aa)
    step = (ln_wave[-1] - ln_wave[0]) / (wave_aa.size - 1)
    off = np.abs(ln_wave - ln_wave[0] - step * np.arange(wave_aa.size))
    if not (step > 0 and off.max() < 0.05 * step):
        raise UsageError(
            "wave_aa is not equidistant in ln(wavelength) to a twentieth of a pixel.",
            "use PixelGrid.logarithmic, in float64.",
        )
    return float(step)


def _per_line(value, n_line: int, name: str) -> np.ndarray:
    array = np.asarray(value, dtype=np.float64)
    if array.shape not in ((), (n_line,)):
        raise UsageError(f"{name} must be a number or have shape ({n_line},), got {array.shape}.")
    return np.broadcast_to(array, (n_line,))


def _broadening_per_h(lines: AtomicLines, mass: np.ndarray, temperature: np.ndarray, name: str):
    """Van der Waals FWHM (rad/s) per perturber, (n_line, n_t).

    The width goes as C6^(2/5) v^(3/5): polarisability to the 0.4, reduced mass to the -0.3.
    """
    reduced = mass * _PERTURBER_MASS[name] / (mass + _PERTURBER_MASS[name])
    reduced_h = mass * _PERTURBER_MASS["H"] / (mass + _PERTURBER_MASS["H"])
    scale = (_POLARISABILITY[name] / _POLARISABILITY["H"]) ** 0.4 * (reduced / reduced_h) ** -0.3
    exponent = 0.5 * (1.0 - lines.vdw_alpha)
    hydrogen = 10.0 ** lines.gamma_vdw[:, None] * (temperature / 1e4) ** exponent[:, None]
    return hydrogen * scale[:, None]


def _wing_cutoff_aa(lines: AtomicLines, cutoff_aa: float) -> np.ndarray:
    """How far each line is followed, (n_line,) Angstrom."""
    table = load_atomic_species()
    t = _REFERENCE_TEMPERATURE
    abundance = np.array([10.0 ** table[s].solar_abundance for s in lines.species])
    population = np.array([1.0 / float(partition_function(s, t)) for s in lines.species])
    population *= np.exp(-lines.e_lower_ev / (K_EV * t))
    wing = abundance * population * 10.0 ** (lines.log_gf + lines.gamma_vdw) * lines.wave_aa**2
    extent = cutoff_aa * np.sqrt(wing / _REFERENCE_WING)
    return np.clip(extent, min(_MIN_CUTOFF_AA, cutoff_aa), cutoff_aa)


def _line_shapes(
    lines: AtomicLines,
    wave_aa: np.ndarray,
    step: float,
    temperature: np.ndarray,
    log10_pressure: np.ndarray,
    *,
    microturbulence_kms: float,
    cutoff_aa: float,
    damping_scale: np.ndarray,
    strength_scale: np.ndarray,
    wave_shift_aa: np.ndarray,
) -> _LineShapes:
    table = load_atomic_species()
    mass = np.array([table[s].mass_u for s in lines.species])
    wave = lines.wave_aa + wave_shift_aa

    thermal_sq = 2.0 * K_BOLTZMANN * temperature / (mass[:, None] * U_GRAM) / C_LIGHT**2
    turbulent_sq = (microturbulence_kms / SPEED_OF_LIGHT_KMS) ** 2
    hyperfine_sq = 2.0 * (lines.hfs_rms_aa / lines.wave_aa) ** 2
    doppler = np.sqrt(thermal_sq + turbulent_sq + hyperfine_sq[:, None]) / step

    gas = perturber_densities(temperature[:, None], log10_pressure[None, :])
    gamma = np.zeros((wave.size, temperature.size, log10_pressure.size))
    for name, density in (
        ("H", gas.hydrogen),
        ("H2", gas.hydrogen_molecule),
        ("He", gas.helium),
    ):
        gamma += _broadening_per_h(lines, mass, temperature, name)[:, :, None] * density
    stark = 10.0 ** lines.gamma_stark[:, None] * (temperature / 1e4) ** (1.0 / 6.0)
    gamma += stark[:, :, None] * gas.electron
    gamma *= damping_scale[:, None, None]
    gamma += 10.0 ** lines.gamma_rad[:, None, None]
    frequency = C_LIGHT / (wave * 1e-8)
    hwhm = gamma / (4.0 * np.pi) / frequency[:, None, None] / step

    kt = K_EV * temperature
    population = np.exp(-lines.e_lower_ev[:, None] / kt)
    for name in set(lines.species):
        population[lines.species == name] /= partition_function(str(name), temperature)
    stimulated = -np.expm1(-(HC_EV_AA / wave)[:, None] / kt)
    oscillator = 10.0**lines.log_gf * strength_scale
    integral = _CLASSICAL_CM2_HZ * oscillator[:, None] * population * stimulated
    strength = integral / (frequency[:, None] * step) / CROSS_SECTION_UNIT_CM2
    return _LineShapes(
        centre=np.log(wave / wave_aa[0]) / step,
        doppler=doppler,
        hwhm=hwhm,
        strength=strength,
        cutoff=_wing_cutoff_aa(lines, cutoff_aa) / (wave * step),
    )


@partial(jax.jit, static_argnames=("half", "core", "n_sub"))
def _profiles(
    fraction: Float[Array, line],
    doppler: Float[Array, "line t"],
    hwhm: Float[Array, "line t p"],
    strength: Float[Array, "line t"],
    cutoff: Float[Array, line],
    *,
    half: int,
    core: int,
    n_sub: int,
) -> Float[Array, "line t p pix"]:
    """Pixel-averaged Voigt profiles on `2 half + 1` pixels about each line's nearest pixel."""
    b = doppler[:, :, None, None]
    g = hwhm[:, :, :, None]

    distance = jnp.arange(-half, half + 1) - fraction[:, None]
    # Mean of 1/x^2 over a pixel centred on x, divided by 1/x^2: exact for a Lorentzian wing.
    curvature = 1.0 / (1.0 - 0.25 / jnp.maximum(distance**2, 1.0))
    reach = jnp.abs(distance) / cutoff[:, None]
    taper = jnp.cos(0.5 * np.pi * jnp.clip((reach - _TAPER_FROM) / (1 - _TAPER_FROM), 0, 1)) ** 2
    wings = voigt_profile(distance[:, None, None, :], b, g) * (curvature * taper)[:, None, None, :]

    # Near the centre the profile can be narrower than a pixel: average over sub-samples.
    offset = (np.arange(n_sub) + 0.5) / n_sub - 0.5
    samples = (np.arange(-core, core + 1)[:, None] + offset).reshape(-1)
    points = jnp.asarray(samples, fraction.dtype) - fraction[:, None]
    fine = voigt_profile(points[:, None, None, :], b, g)
    centre = fine.reshape(*fine.shape[:-1], 2 * core + 1, n_sub).mean(axis=-1)
    profile = wings.at[..., half - core : half + core + 1].set(centre)
    return profile * strength[:, :, None, None]


def atomic_cross_sections(
    lines: AtomicLines,
    wave_aa: Float[np.ndarray, wave],
    temperature_grid: Float[np.ndarray, t],
    log10_pressure_grid: Float[np.ndarray, p],
    *,
    microturbulence_kms: float = 1.0,
    cutoff_aa: float = 80.0,
    select: Collection[str] | None = None,
    damping_scale: float | np.ndarray = 1.0,
    strength_scale: float | np.ndarray | None = None,
    wave_shift_aa: float | np.ndarray | None = None,
) -> dict[str, Float[np.ndarray, "t p wave"]]:
    """Line absorption cross-section per atom of each species, on a (T, P, wavelength) table.

    The absorption coefficient (1/cm) is the number density of the species (that ionisation stage,
    all levels) times the value times `CROSS_SECTION_UNIT_CM2`: partition function, Boltzmann factor
    and stimulated emission (LTE) are inside.

    Parameters
    ----------
    lines : AtomicLines
        From `load_atomic_lines`.
    wave_aa : Float[np.ndarray, "wave"]
        Pixel centres, vacuum Angstrom, equidistant in ln(wavelength), float64.
    temperature_grid : Float[np.ndarray, "t"]
        K.
    log10_pressure_grid : Float[np.ndarray, "p"]
        log10 of the gas pressure in dyn/cm^2.
    microturbulence_kms : float
        Added in quadrature to the thermal speed sqrt(2kT/m).
    cutoff_aa : float
        Distance at which the wing of K I 7665 ends, Angstrom; other lines end where their opacity
        (solar abundances, 3300 K) is that low, between 3 A and `cutoff_aa`. The last fifth of
        each wing is tapered.
    select : collection of str, optional
        Species to compute; default all in `lines`.
    damping_scale : float or (n_line,) array
        Factor on the collisional widths.
    strength_scale : float or (n_line,) array, optional
        Factor on the oscillator strengths.
    wave_shift_aa : float or (n_line,) array, optional
        Added to the line wavelengths.

    Returns
    -------
    dict of str to Float[np.ndarray, "t p wave"]
        float32, in units of 1e-16 cm^2, one array per species. Exactly zero far from lines, in the
        same pixels at every (T, P) but for float32 underflow: floor it at 1e-30 before a logarithm.

    Raises
    ------
    UsageError
        If the grid is not logarithmic, a grid is not one-dimensional, a scale has the wrong shape
        or `select` names a species without lines.

    Notes
    -----
    Each value is the mean over its pixel, so the integral over wavelength is right however narrow
    the line. Where a pixel does not resolve a saturated core, its mean opacity still absorbs more
    than the core would: for a Doppler width of 1.4 km/s and a Lorentzian half width of 0.5 km/s
    (Fe I at log P = 5.5) at most 23 % in equivalent width with a step of 2e-5, 8 % with 1e-5 and
    2 % with 5e-6; 14 %, 4 % and 1 % with a Doppler width of 2.4 km/s.
    Wings are Lorentzian to the end. Beyond the impact limit (about 30 A for Na D and K I 7665 at
    3000 K; Burrows, Marley & Sharp 2000) that is an approximation.
    Widths: natural; thermal, microturbulent and hyperfine; van der Waals by H, H2 and He with the
    scaling C6^(2/5) v^(3/5) from one perturber to another; quadratic Stark.

    Examples
    --------
    >>> import numpy as np
    >>> from jaxmdwarf.simulate.atoms.lines import load_atomic_lines
    >>> wave = 8170.0 * np.exp(2e-5 * np.arange(250))
    >>> sigma = atomic_cross_sections(
    ...     load_atomic_lines(), wave, np.array([3000.0]), np.array([5.0]), select=["Na I"]
    ... )
    >>> sigma["Na I"].shape, round(float(wave[sigma["Na I"][0, 0].argmax()]))
    ((1, 1, 250), 8197)
    """
    wave_aa = np.asarray(wave_aa, dtype=np.float64)
    step = _log_grid_step(wave_aa)
    temperature = np.asarray(temperature_grid, dtype=np.float64)
    log10_pressure = np.asarray(log10_pressure_grid, dtype=np.float64)
    if temperature.ndim != 1 or log10_pressure.ndim != 1:
        raise UsageError("temperature_grid and log10_pressure_grid must be one-dimensional.")
    n_line = lines.wave_aa.size
    present = list(dict.fromkeys(str(s) for s in lines.species))
    wanted = present if select is None else list(dict.fromkeys(select))
    if missing := sorted(set(wanted) - set(present)):
        raise UsageError(f"no lines of {', '.join(missing)}.", f"have: {', '.join(present)}.")
    damping = _per_line(damping_scale, n_line, "damping_scale")
    strength = _per_line(
        1.0 if strength_scale is None else strength_scale, n_line, "strength_scale"
    )
    shift = _per_line(0.0 if wave_shift_aa is None else wave_shift_aa, n_line, "wave_shift_aa")

    keep = np.isin(lines.species, wanted)
    chosen = lines.take(keep)
    shapes = _line_shapes(
        chosen,
        wave_aa,
        step,
        temperature,
        log10_pressure,
        microturbulence_kms=microturbulence_kms,
        cutoff_aa=cutoff_aa,
        damping_scale=damping[keep],
        strength_scale=strength[keep],
        wave_shift_aa=shift[keep],
    )
    shape = (temperature.size, log10_pressure.size, wave_aa.size)
    out = {name: np.zeros(shape, dtype=np.float32) for name in wanted}
    if len(chosen.wave_aa):
        _add_profiles(out, chosen.species, shapes, wave_aa.size)
    return out


def _add_profiles(
    out: dict[str, np.ndarray], species: np.ndarray, shapes: _LineShapes, n_wave: int
) -> None:
    """Add the profile of every line to the table of its species, in place."""
    # The core window: wide enough for the Gaussian to have died and the pixel mean of the
    # Lorentzian wing to be the correction above.
    core = int(max(4, np.ceil(5.0 * shapes.doppler.max())))
    n_sub = int(
        np.clip(np.ceil(_SAMPLES_PER_DOPPLER_WIDTH / shapes.doppler.min()), 1, _MAX_SUBSAMPLES)
    )
    nearest = np.rint(shapes.centre).astype(int)
    half = np.maximum(np.ceil(shapes.cutoff).astype(int), core + 1)
    bucket = 2 ** np.ceil(np.log2(half)).astype(int)
    reaches = (nearest + bucket >= 0) & (nearest - bucket < n_wave)
    columns = (shapes.centre - nearest, *shapes[1:])
    n_node = shapes.hwhm.shape[1] * shapes.hwhm.shape[2]
    for width in np.unique(bucket[reaches]):
        # Chunks of one size (padded), so that each window length is compiled once.
        members = np.flatnonzero(reaches & (bucket == width))
        per_line = n_node * (2 * width + 1 + (2 * core + 1) * n_sub)
        chunk = int(np.clip(4_000_000 // per_line, 1, members.size))
        for start in range(0, members.size, chunk):
            part = members[start : start + chunk]
            padded = np.resize(part, chunk)
            values = np.asarray(
                _profiles(
                    *(jnp.asarray(column[padded], dtype=jnp.float32) for column in columns),
                    half=int(width),
                    core=core,
                    n_sub=n_sub,
                )
            )
            for row, i in enumerate(part):
                left, right = nearest[i] - width, nearest[i] + width + 1
                first, last = max(left, 0), min(right, n_wave)
                target = out[str(species[i])]
                target[:, :, first:last] += values[row, :, :, first - left : last - left]
