"""Training of Cycle-StarNet: configuration, data, losses, steps, loop."""
