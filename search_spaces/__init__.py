"""What can be built: choices, spaces, candidates, and the super-network that holds them all in one set of weights."""

from search_spaces.batch_norm import has_batch_norms
from search_spaces.costs import exact_costs
from search_spaces.cuts import AttributeCut, AxisCut, BlockCut, Cut
from search_spaces.drop_order import last_first, spread
from search_spaces.families import space
from search_spaces.kernels import Kernels, kernels
from search_spaces.plain_attention import plain_attention
from search_spaces.recalibration import recalibrate
from search_spaces.space import Candidate, Choice, Space
from search_spaces.structure import NotElastic
from search_spaces.supernet import Supernet

__all__ = [
    "AttributeCut",
    "AxisCut",
    "BlockCut",
    "Candidate",
    "Choice",
    "Cut",
    "Kernels",
    "NotElastic",
    "Space",
    "Supernet",
    "exact_costs",
    "has_batch_norms",
    "kernels",
    "last_first",
    "plain_attention",
    "recalibrate",
    "space",
    "spread",
]
