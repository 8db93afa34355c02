"""Latency of sub-networks on one device: measure a few that tell much, predict the rest, check what was chosen."""
