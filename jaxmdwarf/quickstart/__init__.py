"""The whole pipeline on a simulated survey."""
