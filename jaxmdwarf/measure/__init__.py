"""Quantities read off spectra without a model."""
