"""Network layers, the only place where flax is used."""
