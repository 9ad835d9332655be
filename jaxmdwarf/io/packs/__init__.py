"""Packs: the spectra of many files in one Zarr group, which any reader of Zarr can open."""
