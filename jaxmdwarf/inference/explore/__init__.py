"""What lies around a fit: landscapes, other minima, posteriors."""
