from nas.errors import NoFeasible as NoFeasible
from nas.errors import UserError as UserError
from nas.evaluation import Measurement as Measurement
from nas.evaluation import Objective as Objective
from nas.export import export as export
from nas.instatune import InstaTuneConfig as InstaTuneConfig
from nas.instatune import instatune as instatune
from nas.linas import LinasConfig as LinasConfig
from nas.linas import linas as linas
from nas.nsga2 import nsga2 as nsga2
from nas.random_search import random_search as random_search
from nas.search import search as search
from nas.study import Study as Study
from search_spaces import recalibrate as recalibrate

__all__ = [
    "InstaTuneConfig",
    "LinasConfig",
    "Measurement",
    "NoFeasible",
    "Objective",
    "Study",
    "UserError",
    "export",
    "instatune",
    "linas",
    "nsga2",
    "random_search",
    "recalibrate",
    "search",
]
