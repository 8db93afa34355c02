"""EvoNorm: normalization-activation layers evolved from primitive operations (Liu et al. 2020, arXiv 2004.02967).

`evonorm` is the algorithm box, with steps numbered as in docs/evonorm.md. Differs: see the modules of the steps.
"""

import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.data.rows import Rows
from nas.errors import UserError
from nas.evolving.anchors import SMALL, Network
from nas.evolving.config import EvoNormConfig
from nas.evolving.domain import LayerDomain
from nas.evolving.trials import LayerTrials, shown
from nas.evolving.verdict import score_name
from nas.files import read_json, write_json_atomic
from nas.searching.ageing import ageing_evolution
from nas.searching.measurement import Measurement, Objective, Staged, WithContext
from nas.searching.pace import lag_of, recorded_identity
from nas.searching.study import Study
from nas.tuned import tuned
from nas.workers import Workers
from search_spaces.graphs import LayerGraph

__all__ = ["SMALL", "EvolvedLayers", "RankedLayer", "evonorm", "read_layer", "rejections", "write_layer"]


_PROPOSALS_A_WORKER = 8


@dataclass(frozen=True)
class RankedLayer:
    """A layer after its longer training.

    Args:
        graph: the layer.
        accuracies: on validation rows (0..1), by the name of the network; without those where it failed.
    """

    graph: LayerGraph
    accuracies: Mapping[str, float]

    @property
    def formula(self) -> str:
        """The layer in readable text."""
        return self.graph.formula()

    @property
    def mean(self) -> float:
        """The mean accuracy; 0 where it trained in no network."""
        return statistics.mean(self.accuracies.values()) if self.accuracies else 0.0


@dataclass(frozen=True)
class EvolvedLayers:
    """What an evolution found.

    Args:
        study: every layer that was tried, with the test that rejected it.
        ranked: the best of them after the longer training, best first.
    """

    study: Study[LayerGraph]
    ranked: Sequence[RankedLayer]


def evonorm(
    networks: Mapping[str, Network],
    train: Rows,
    validation: Rows,
    folder: Path,
    config: EvoNormConfig | None = None,
    *,
    budget: int,
    workers: int | Workers = 1,
    lag: int | None = None,
    on_result: Callable[[Measurement[LayerGraph], int], None] | None = None,
) -> EvolvedLayers:
    """Evolve layers that train well in several networks.

    What is done stands in `folder`, and the same call goes on from there.

    Args:
        networks: in which layers are tried, by name, the cheapest first; see `nas.evolving.anchors.networks`.
        train: training rows, images with a class each.
        validation: rows that accuracies are of.
        folder: of the study and the ranking.
        config: the settings; None: the defaults.
        budget: layers that are tried, rejected ones too.
        workers: how many are tried at a time, as trials of Ray Tune in `folder` / trials if more than one; studies of
            one lag are the same for any number.
        lag: a layer is proposed without the results of the last `lag` - 1; None: as the study has it, else 1 for one
            worker and 8 for each of several.
        on_result: called after each result.

    Raises:
        UserError: there are no networks, the settings do not fit the rows, or `folder` is of an evolution with other
            settings.
    """
    config = config or EvoNormConfig()
    if not networks:
        raise UserError("a layer must be tried in at least one network, got none")
    # 1. Random layers and their mutations; of those that compute the same one is tried.
    domain = LayerDomain(config.series)
    # 2. Tests from the cheapest to the dearest, then a training in every network, as long as older layers are near.
    trials = LayerTrials(networks, train, validation, config)
    # 3. Ageing evolution: tournaments on the accuracies in all networks.
    objectives = tuple(Objective(score_name(name), "maximize", source=config.fingerprint()) for name in networks)
    workers = Workers(workers) if isinstance(workers, int) else workers
    storage = folder / "study.journal"
    with tuned(workers, folder / "trials", shown) as pool:
        study = ageing_evolution(
            domain,
            Staged(WithContext(trials, trials.behind), {}, objectives, at_once=trials.at_once),
            objectives,
            budget=budget,
            seed=config.seed,
            config=config.ageing,
            storage=storage,
            pool=pool,
            lag=lag_of(lag, storage, recorded_identity(storage), new=_new_lag(workers)),
            on_result=on_result,
        )
    # 4. The best of them, trained for longer.
    return EvolvedLayers(study, ranked_layers(study, trials, folder / "ranking.json"))


def _new_lag(workers: Workers) -> int:
    """Most proposals are rejected at once, so that several are needed for one that a worker has to do with."""
    return 1 if workers.count == 1 else _PROPOSALS_A_WORKER * workers.count


def best_layers(study: Study[LayerGraph], count: int) -> list[LayerGraph]:
    """The layers with the best mean accuracy over the networks, best first."""
    good = [each for each in study.measurements if each.state == "measured"]
    good.sort(key=lambda each: -statistics.mean(each.values.values()))
    return [each.candidate for each in good[:count]]


def ranked_layers(study: Study[LayerGraph], trials: LayerTrials, path: Path) -> list[RankedLayer]:
    """The best layers of a study, trained for longer; each result is written at once, and read if it is there."""
    settings = trials.config.longer.identity()
    known = _read(path, settings)
    found = []
    for graph in best_layers(study, trials.config.reranked):
        if graph.key not in known:
            known[graph.key] = trials.longer(graph).accuracies
            write_json_atomic(path, {"training": settings, "accuracies": known})
        found.append(RankedLayer(graph, known[graph.key]))
    return sorted(found, key=lambda each: -each.mean)


def _read(path: Path, settings: str) -> dict[str, dict[str, float]]:
    """The accuracies that were written before, by the key of the layer; none of other settings."""
    try:
        data = read_json(path)
        if data["training"] != settings:
            return {}
        return {str(key): _accuracies(each) for key, each in data["accuracies"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _accuracies(values: Mapping[str, Any]) -> dict[str, float]:
    """Accuracies by the network; ValueError where one is none."""
    found = {str(name): float(value) for name, value in values.items()}
    if not all(0 <= value <= 1 for value in found.values()):
        raise ValueError("its accuracies must be from 0 to 1")
    return found


def rejections(measured: Iterable[Measurement[LayerGraph]]) -> Counter[str]:
    """How many layers each test rejected, by its name; "failed" for those that broke off otherwise."""
    return Counter(str(each.extras.get("rejected_by", "failed")) for each in measured if each.state == "failed")


def write_layer(layer: RankedLayer, path: Path) -> None:
    """Write the graph of a layer as JSON, with its formula and accuracies beside it."""
    data = {
        "layer": json.loads(layer.graph.to_json()),
        "formula": layer.formula,
        "accuracies": dict(layer.accuracies),
    }
    write_json_atomic(path, data)


def read_layer(path: Path) -> RankedLayer:
    """Read what `write_layer` wrote; UserError for a file that is damaged."""
    try:
        data = read_json(path, 1 << 18)
        graph = LayerDomain().from_json(data["layer"])
        return RankedLayer(graph, _accuracies(data["accuracies"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} must be a layer that nas wrote, it is damaged: {str(error)[:200]}") from error
