"""Ways to learn a transfer, as objects that train, save and load; a user's own join them."""
