"""Forward models: stellar labels in, flux out."""
