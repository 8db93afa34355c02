"""Normalization-activation layers as graphs that can be searched (EvoNorm, arXiv 2004.02967)."""

from search_spaces.graphs.fingerprint import fingerprint
from search_spaces.graphs.graph import LayerGraph
from search_spaces.graphs.layer import GraphLayer
from search_spaces.graphs.operations import Node
from search_spaces.graphs.published import PUBLISHED, published
from search_spaces.graphs.sampling import mutate, random_graph

__all__ = ["PUBLISHED", "GraphLayer", "LayerGraph", "Node", "fingerprint", "mutate", "published", "random_graph"]
