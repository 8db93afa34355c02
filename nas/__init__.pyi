from nas.data.reading import Source as Source
from nas.data.reading import load_data as load_data
from nas.errors import NoFeasible as NoFeasible
from nas.errors import UserError as UserError
from nas.exporting.folder import export as export
from nas.learning.block_order import block_order as block_order
from nas.learning.importance import ImportanceConfig as ImportanceConfig
from nas.learning.importance import order_by_importance as order_by_importance
from nas.learning.instatune import InstaTuneConfig as InstaTuneConfig
from nas.learning.instatune import instatune as instatune
from nas.networks.pretrained import load_pretrained as load_pretrained
from nas.profiling.latency import profile_latency as profile_latency
from nas.profiling.latency import profiled_latency as profiled_latency
from nas.searching.linas import LinasConfig as LinasConfig
from nas.searching.linas import linas as linas
from nas.searching.measurement import Measurement as Measurement
from nas.searching.measurement import Objective as Objective
from nas.searching.nsga2 import Nsga2Config as Nsga2Config
from nas.searching.nsga2 import nsga2 as nsga2
from nas.searching.random_search import random_search as random_search
from nas.searching.relative_latency import LatencySettings as LatencySettings
from nas.searching.study import Study as Study
from nas.searching.study import load_study as load_study
from nas.searching.supernet_search import search as search
from nas.searching.warm_start import known_results as known_results
from nas.searching.workers import Workers as Workers
from search_spaces import recalibrate as recalibrate

__all__ = [
    "ImportanceConfig",
    "InstaTuneConfig",
    "LatencySettings",
    "LinasConfig",
    "Measurement",
    "NoFeasible",
    "Nsga2Config",
    "Objective",
    "Source",
    "Study",
    "UserError",
    "Workers",
    "block_order",
    "export",
    "instatune",
    "known_results",
    "linas",
    "load_data",
    "load_pretrained",
    "load_study",
    "nsga2",
    "order_by_importance",
    "profile_latency",
    "profiled_latency",
    "random_search",
    "recalibrate",
    "search",
]
