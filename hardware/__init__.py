"""Module and inputs in, cost out: exact costs, latency, and the runtimes that a module can run on."""

from hardware.cost import Cost, cost
from hardware.inputs import Inputs
from hardware.latency import Latency, measure_latency

__all__ = ["Cost", "Inputs", "Latency", "cost", "measure_latency"]
