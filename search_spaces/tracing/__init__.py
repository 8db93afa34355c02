"""Finds the axes of a network that must shrink together, by propagating symbolic axes through its exported graph."""
