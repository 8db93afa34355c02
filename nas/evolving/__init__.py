"""EvoNorm: layers that normalize and activate, tried in several networks, and put into a network of the user."""
