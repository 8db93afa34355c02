"""Costs of a module for given inputs: exact costs, measured latency, and the runtimes that can execute it."""

from hardware.backend import Backend, ConversionError, Runner
from hardware.cost import Cost, cost
from hardware.deployment import Deployment
from hardware.latency import Latency, measure_latency
from hardware.machine import this_machine
from hardware.onnxruntime import OnnxRuntimeBackend
from hardware.openvino import OpenVinoBackend
from hardware.policy import Policy
from hardware.probing import Offer, Probe, gaining_precisions, probe
from hardware.profile import (
    DeviceProfile,
    MeasurementProtocol,
    ProfileRow,
    Timing,
    differs,
    read_profile,
    write_profile,
)
from hardware.protocol import UnstableError, measure_beside, require_stable
from hardware.pytorch import PyTorchBackend
from hardware.registry import Runtime, backend, backends
from hardware.resizing import Resizer
from search_spaces.inputs import Inputs

__all__ = [
    "Backend",
    "ConversionError",
    "Cost",
    "Deployment",
    "DeviceProfile",
    "Inputs",
    "Latency",
    "MeasurementProtocol",
    "Offer",
    "OnnxRuntimeBackend",
    "OpenVinoBackend",
    "Policy",
    "Probe",
    "ProfileRow",
    "PyTorchBackend",
    "Resizer",
    "Runner",
    "Runtime",
    "Timing",
    "UnstableError",
    "backend",
    "backends",
    "cost",
    "differs",
    "gaining_precisions",
    "measure_beside",
    "measure_latency",
    "probe",
    "read_profile",
    "require_stable",
    "this_machine",
    "write_profile",
]
