"""Labels, velocities and their errors from spectra, in batches."""
