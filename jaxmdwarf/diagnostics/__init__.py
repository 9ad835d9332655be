"""How far models and catalogues are from the truth: bias, scatter, pulls, two-sample tests."""
