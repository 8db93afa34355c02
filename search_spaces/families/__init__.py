"""Spaces of real models: repeated blocks, names of the dimensions, and what only one family needs."""
