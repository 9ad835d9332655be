"""From raw spectra to normalised, masked, rest-frame batches on one pixel grid."""
