"""What ``import jaxmdwarf as jm`` offers; see the package itself for the names."""
