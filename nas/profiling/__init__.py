"""Latency on a device: measure a few informative sub-networks, predict all others, and verify the chosen ones."""
