"""What can be built: choices, spaces, candidates, and the super-network that holds them all in one set of weights."""

from search_spaces.cuts import AttributeCut, AxisCut, BlockCut, Cut
from search_spaces.space import Candidate, Choice, Space

__all__ = ["AttributeCut", "AxisCut", "BlockCut", "Candidate", "Choice", "Cut", "Space"]
