"""Atomic lines of cool dwarfs: line data, partition functions, Voigt profiles, cross-sections."""
