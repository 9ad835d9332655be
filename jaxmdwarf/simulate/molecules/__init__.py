"""Molecular lines computed from published constants: levels, strengths, partition functions."""
