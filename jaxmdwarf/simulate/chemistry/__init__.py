"""Chemical equilibrium: partition functions, the network of species, number densities."""
