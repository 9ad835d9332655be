"""Training of emulators: configuration, data, loop, accuracy."""
