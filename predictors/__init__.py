"""Regression models for few rows: from features to a mean and a spread. They know nothing of networks.

All of them implement `Predictor`. `GaussianProcess`, `Ridge`, `Svr` and `Chooser` (the best of several) predict any
label; `Additive` and `Corrected` are for costs such as latencies. `quality` measures how good predictions are.
"""

from predictors.additive import Additive
from predictors.chooser import Chooser, published_chooser
from predictors.corrected import Corrected
from predictors.gaussian_process import GaussianProcess
from predictors.predictor import Predictor
from predictors.quality import Quality, coverage, kendall_tau, mape, quality, spearman
from predictors.ridge import Ridge
from predictors.saving import load, save
from predictors.svr import Svr

__all__ = [
    "Additive",
    "Chooser",
    "Corrected",
    "GaussianProcess",
    "Predictor",
    "Quality",
    "Ridge",
    "Svr",
    "coverage",
    "kendall_tau",
    "load",
    "mape",
    "published_chooser",
    "quality",
    "save",
    "spearman",
]
