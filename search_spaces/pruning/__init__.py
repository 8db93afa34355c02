"""Cuts a trained network into sub-networks whose channels can be pruned independently (EMO-PMS, arXiv 2303.16212)."""

from search_spaces.pruning.partition import Partition, SubNetwork, partition

__all__ = ["Partition", "SubNetwork", "partition"]
