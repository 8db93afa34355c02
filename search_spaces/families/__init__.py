"""Makes the spaces of real models: finds blocks, names dimensions, checks them, and knows the ranges of each family."""
