"""Search spaces of neural networks, and the super-network that holds all sub-networks of a space in one set of weights.

`space(model)` reads a pre-trained network and returns its `Space`: the choices (depth, heads, channels, ...) with the
parameter axes that each of them cuts. `Supernet(model, space)` runs and extracts the sub-network of any `Candidate`.
"""

from search_spaces import pruning, quantization
from search_spaces.cuts import AttributeCut, AxisCut, BlockCut, Cut
from search_spaces.families import beit3, bert, resnet, vit
from search_spaces.families.drop_order import last_first, spread
from search_spaces.families.plain_attention import plain_attention
from search_spaces.families.recognition import space
from search_spaces.families.stages import stages_of
from search_spaces.families.structure import NotElastic
from search_spaces.space import Candidate, Choice, Space
from search_spaces.supernets.batch_norm import has_batch_norms
from search_spaces.supernets.costs import exact_costs
from search_spaces.supernets.hidden_states import recorded
from search_spaces.supernets.kernels import Kernels, kernels
from search_spaces.supernets.recalibration import recalibrate
from search_spaces.supernets.supernet import Supernet

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
    "beit3",
    "bert",
    "exact_costs",
    "has_batch_norms",
    "kernels",
    "last_first",
    "plain_attention",
    "pruning",
    "quantization",
    "recalibrate",
    "recorded",
    "resnet",
    "space",
    "spread",
    "stages_of",
    "vit",
]
