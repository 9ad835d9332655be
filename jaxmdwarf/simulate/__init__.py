"""Physics-based M-dwarf spectra and simulated surveys with known truth: the embedded default."""
