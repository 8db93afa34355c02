"""Training: the one loop, InstaTune, and the orders of units and blocks before it."""
