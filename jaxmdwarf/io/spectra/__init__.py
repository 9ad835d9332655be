"""Files of spectra of every supported survey."""
