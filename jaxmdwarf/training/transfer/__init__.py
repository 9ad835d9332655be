"""What carries theory into the observed domain: the domain, corrections, distillation."""
