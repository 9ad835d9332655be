"""Losses, pure train steps and the training loop."""
