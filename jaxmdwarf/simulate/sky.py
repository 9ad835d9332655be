"""Earth's atmosphere in front of the telescope: telluric absorption and night-sky lines."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from jaxmdwarf.lsf import FWHM_OF_SIGMA
from jaxmdwarf.simulate.instrument import NATIVE_GRID, RESOLUTION
from jaxmdwarf.simulate.tables import read_rows
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS, air_to_vacuum, is_within

TELLURIC_BANDS: dict[str, tuple[float, float]] = {
    "O2 gamma": (6274.0, 6330.0),
    "O2 B": (6864.0, 6970.0),
    "H2O 7200": (7160.0, 7345.0),
    "O2 A": (7590.0, 7715.0),
    "H2O 8200": (8100.0, 8370.0),
    "H2O 9000": (8925.0, 9130.0),
}
"""Ranges (vacuum, observatory frame) outside which telluric residuals are exactly zero."""

FIBRE_ARCSEC2 = 8.55
"""Solid angle of a fibre on the sky, square arcseconds."""


def telluric_depth(wave_aa: np.ndarray) -> np.ndarray:
    """Effective telluric optical depth at R = 1800 (observatory frame), zero outside the bands.

    O2 bands are computed line by line from rotational constants (Babcock & Herzberg 1948, ApJ 108
    167) with Boltzmann populations at 250 K; H2O bands are fixed random forests of lines under the
    bands' envelopes, whose single lines are not real ones. Peak depths are typical of one air mass.

    Examples
    --------
    >>> telluric_depth(np.array([7000.0, 7606.0])).round(1).tolist()
    [0.0, 1.4]
    """
    grid, depth = _telluric_template()
    return np.interp(np.log(wave_aa), grid, depth, left=0.0, right=0.0)


def shift_template(template: np.ndarray, frame_kms: np.ndarray) -> np.ndarray:
    """A template on oversampled native pixels as seen from another frame.

    Parameters
    ----------
    template : (m,)
        See `sky_template` and `telluric_on_pixels`.
    frame_kms : (n,)
        Velocities by which it is moved.

    Returns
    -------
    (n, n_pix) float32
    """
    shift = np.log1p(frame_kms / SPEED_OF_LIGHT_KMS) / NATIVE_GRID.step * _OVERSAMPLING
    position = _OVERSAMPLING * np.arange(NATIVE_GRID.n_pix) + _MARGIN - shift[:, None]
    base = np.clip(np.floor(position).astype(np.int32), 0, template.size - 2)
    offset = (position - base).astype(np.float32)
    return template[base] * (1 - offset) + template[base + 1] * offset


_OVERSAMPLING = 8
_MARGIN = 80


def _oversampled_log_wave() -> np.ndarray:
    """ln(wavelength) of the templates that `shift_template` moves."""
    step = NATIVE_GRID.step / _OVERSAMPLING
    n = _OVERSAMPLING * NATIVE_GRID.n_pix + 2 * _MARGIN
    return np.log(NATIVE_GRID.start_aa) + step * (np.arange(n) - _MARGIN)


@lru_cache(maxsize=1)
def sky_template() -> np.ndarray:
    """Night-sky lines in one fibre, on oversampled native pixels, erg s^-1 cm^-2 Angstrom^-1."""
    rows = read_rows("jaxmdwarf.simulate", "night_sky.csv")
    wave = np.exp(_oversampled_log_wave())
    sky = np.zeros_like(wave)
    centres = air_to_vacuum(np.array([float(row["wave_air_aa"]) for row in rows]))
    for row, centre in zip(rows, centres, strict=True):
        sigma = centre / (RESOLUTION * FWHM_OF_SIGMA)
        total = float(row["flux_1e16"]) * 1e-16 * FIBRE_ARCSEC2 / (sigma * np.sqrt(2 * np.pi))
        sky += total * np.exp(-0.5 * ((wave - centre) / sigma) ** 2)
    return sky.astype(np.float32)


@lru_cache(maxsize=1)
def telluric_on_pixels() -> tuple[np.ndarray, np.ndarray]:
    """Optical depths of O2 and of H2O on oversampled native pixels, for `shift_template`."""
    log_wave = _oversampled_log_wave()
    depth = telluric_depth(np.exp(log_wave))
    wave = np.exp(log_wave)
    oxygen = np.zeros(wave.size, dtype=bool)
    for name, bounds in TELLURIC_BANDS.items():
        if name.startswith("O2"):
            oxygen |= is_within(wave, bounds)
    return (
        np.where(oxygen, depth, 0.0).astype(np.float32),
        np.where(oxygen, 0.0, depth).astype(np.float32),
    )


_OXYGEN_BANDS = ((13120.9, 1.3912, 80.0), (14525.7, 1.3730, 5.0), (15902.4, 1.3548, 0.3))
"""O2 b-X (0-0), (1-0), (2-0): origin and upper rotational constant in cm^-1, depth of the strongest
line at one air mass."""
_WATER_BANDS = (("H2O 7200", 0.8, 150), ("H2O 8200", 1.2, 200), ("H2O 9000", 5.0, 200))


@lru_cache(maxsize=1)
def _telluric_template() -> tuple[np.ndarray, np.ndarray]:
    """ln(wavelength) and effective optical depth at the resolution of the instrument."""
    step = 2e-6
    grid = np.arange(np.log(6200.0), np.log(9160.0), step)
    wave = np.exp(grid)
    fine = np.zeros_like(wave)
    for origin, b_upper, peak in _OXYGEN_BANDS:
        for centre, strength in zip(*_oxygen_lines(origin, b_upper), strict=True):
            _add_line(fine, grid, centre, peak * strength)
    random = np.random.Generator(np.random.Philox(key=np.array([7, 11], dtype=np.uint64)))
    for name, peak, n_lines in _WATER_BANDS:
        low, high = TELLURIC_BANDS[name]
        x = random.beta(2.0, 2.0, n_lines)
        strengths = peak * np.exp(random.normal(0.0, 1.2, n_lines))
        for centre, strength in zip(low + 8 + (high - low - 16) * x, strengths, strict=True):
            _add_line(fine, grid, centre, strength)
    # Lines saturate before the spectrograph smooths them: that order fixes the effective depth.
    thin = 12
    absorbed = (1 - np.exp(-fine))[: fine.size // thin * thin].reshape(-1, thin).mean(axis=1)
    grid = grid[: absorbed.size * thin].reshape(-1, thin).mean(axis=1)
    wave = np.exp(grid)
    sigma = 1.0 / (RESOLUTION * FWHM_OF_SIGMA) / (thin * step)
    reach = int(6 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    absorbed = np.convolve(absorbed, kernel / kernel.sum(), mode="same")
    depth = -np.log1p(-np.clip(absorbed, 0, 0.99))
    taper = np.zeros_like(wave)
    for low, high in TELLURIC_BANDS.values():
        taper = np.maximum(taper, np.clip(np.minimum(wave - low, high - wave) / 4.0, 0, 1))
    return grid, depth * taper


def _oxygen_lines(origin: float, b_upper: float) -> tuple[np.ndarray, np.ndarray]:
    """Vacuum wavelengths and relative strengths of the P and R lines of an O2 b-X band."""
    b_lower = 1.4377
    n = np.arange(1, 40, 2)  # only odd N exist for 16O2
    population = (2 * n + 1) * np.exp(-1.4388 * b_lower * n * (n + 1) / 250.0)
    lines = []
    for upper in (n + 1, n - 1):
        nu = origin + b_upper * upper * (upper + 1) - b_lower * n * (n + 1)
        # Spin splits every line into a pair about 2 cm^-1 apart.
        lines += [nu, nu + 1.9]
    strength = population / population.max()
    return 1e8 / np.concatenate(lines), np.tile(strength, len(lines))


def _add_line(depth: np.ndarray, grid: np.ndarray, centre_aa: float, strength: float) -> None:
    """Add a pressure-broadened line (half width 0.06 cm^-1) of given central depth in place."""
    step = grid[1] - grid[0]
    middle = int((np.log(centre_aa) - grid[0]) / step)
    span = slice(max(middle - 400, 0), max(middle + 401, 0))
    x = (grid[span] - np.log(centre_aa)) / 4.5e-6
    depth[span] += strength / (1 + x**2)
