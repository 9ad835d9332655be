"""What users would run instead: peers that benchmarks time beside the package."""
