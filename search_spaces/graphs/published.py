"""Layers from the literature as graphs: EvoNorm B0 .. S2 (arXiv 2004.02967, section 5), and pairs of known layers.

B0 and S0 were checked against the authors' code, B1, B2, S1 and S2 against that of timm. All have at most the paper's
ten nodes. The 1 of B1 is exp(0), because the primitives have no other constant than 0.
"""

from search_spaces.graphs.graph import LayerGraph
from search_spaces.graphs.operations import INITIAL, Node

# One line a node: name, operation (and index set), inputs.
_NORMALIZED = """
    mean      mean.{over}  x
    minus     neg          mean
    centred   add          x minus
    spread    std.{over}   x
    unit      div          centred spread
    scaled    mul          v1 unit
    norm      add          v0 scaled
"""
_TEXTS = {
    "B0": """
        batch   std.batch     x
        linear  mul           v1 x
        spread  std.instance  x
        other   add           linear spread
        most    max           batch other
        y       div           x most
    """,
    "B1": """
        batch   std.batch     x
        one     exp           zero
        linear  add           x one
        size    rms.instance  x
        other   mul           linear size
        most    max           batch other
        y       div           x most
    """,
    "B2": """
        batch   std.batch     x
        size    rms.instance  x
        minus   neg           x
        other   add           size minus
        most    max           batch other
        y       div           x most
    """,
    "S0": """
        linear  mul        v1 x
        gate    sigmoid    linear
        gated   mul        x gate
        spread  std.group  x
        y       div        gated spread
    """,
    "S1": """
        gate    sigmoid    x
        gated   mul        x gate
        spread  std.group  x
        y       div        gated spread
    """,
    "S2": """
        gate    sigmoid    x
        gated   mul        x gate
        size    rms.group  x
        y       div        gated size
    """,
    "BN-ReLU": _NORMALIZED.format(over="batch") + "y max norm zero",
    "GN-ReLU": _NORMALIZED.format(over="group") + "y max norm zero",
    "GN-SiLU": _NORMALIZED.format(over="group") + "gate sigmoid norm \n y mul norm gate",
    "SiLU-GN": """
        gate     sigmoid     x
        silu     mul         x gate
        mean     mean.group  silu
        minus    neg         mean
        centred  add         silu minus
        spread   std.group   silu
        y        div         centred spread
    """,
}
PUBLISHED = tuple(_TEXTS)
"""The names that `published` knows."""


def published(name: str) -> LayerGraph:
    """The graph of a known layer.

    BN-ReLU, GN-ReLU and GN-SiLU normalize first: their scale and shift stand before the activation, so v1 and v0 are
    gamma and beta, and `GraphLayer(graph, channels, affine=False)` is exactly `nn.BatchNorm2d` with `nn.ReLU`. SiLU-GN
    activates first, and like the EvoNorms has its gamma and beta in the affine after the graph.

    Args:
        name: one of `PUBLISHED`.

    Raises:
        ValueError: it is none of them.
    """
    if name not in _TEXTS:
        raise ValueError(f"the name of a published layer must be one of {', '.join(PUBLISHED)}, got {str(name)[:60]!r}")
    places = {initial: index for index, initial in enumerate(INITIAL)}
    nodes = []
    for line in _TEXTS[name].strip().splitlines():
        node, operation, *inputs = line.split()
        op, _, over = operation.partition(".")
        nodes.append(Node(op, tuple(places[name] for name in inputs), over or None))
        places[node] = len(places)
    return LayerGraph(tuple(nodes))
