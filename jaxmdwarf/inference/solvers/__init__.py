"""Solvers: each takes an objective and starting points to a minimum, for all stars at once."""
