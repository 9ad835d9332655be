"""How right the labels are: bias and scatter against references."""
