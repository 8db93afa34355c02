"""Predictors: numbers in, a mean and a spread out; they know nothing of networks."""

from predictors.chooser import Chooser, published_chooser, quick_chooser
from predictors.predictor import Predictor
from predictors.quality import coverage, kendall_tau, mape, spearman
from predictors.ridge import Ridge
from predictors.saving import load, save
from predictors.svr import Svr

__all__ = [
    "Chooser",
    "Predictor",
    "Ridge",
    "Svr",
    "coverage",
    "kendall_tau",
    "load",
    "mape",
    "published_chooser",
    "quick_chooser",
    "save",
    "spearman",
]
