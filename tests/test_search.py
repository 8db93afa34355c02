"""Searching a small super-network: what each objective measures, and what a resumed search keeps."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import search_spaces
from hardware import cost
from nas.data.accuracy import accuracy, predict
from nas.data.split import InputKind, RawRow, Split, make_split
from nas.errors import NoFeasible, UserError
from nas.searching.linas import LinasConfig, linas
from nas.searching.measurement import Objective, Staged
from nas.searching.objectives import objective
from nas.searching.random_search import random_search
from nas.searching.relative_latency import LatencySettings, reference_path
from nas.searching.study import Study
from nas.searching.supernet_search import search
from search_spaces import Space, Supernet

QUICK = LatencySettings(tokens=8, repeats=1, warmup=0)


class Words:
    """Lengths 2 to 9, token ids from the text's own characters."""

    kind: InputKind = "text"

    def __init__(self, rows: Sequence[RawRow] = ()) -> None:
        self._ids = [[ord(str(character)) % 30 for character in str(row)] for row in rows]

    @property
    def lengths(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array([len(ids) for ids in self._ids], dtype=np.int64)

    def prepare(self, rows: Sequence[RawRow], max_tokens: int) -> "Words":
        return Words(rows)

    def save(self, folder: Path) -> None:
        (folder / "words.txt").write_text("none")

    def batch(self, indices: object) -> dict[str, torch.Tensor]:
        rows = [torch.tensor(self._ids[int(i)]) for i in np.asarray(indices)]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=16,
        num_labels=2,
        initializer_range=0.3,
        max_position_embeddings=16,
    )
    model = BertForSequenceClassification(config).eval()
    return Supernet(model, search_spaces.space(model, depth=(1, 2), heads=(2, 4), ffn=(8, 16)))


@pytest.fixture(scope="module")
def rows() -> Split:
    rng = np.random.default_rng(0)
    texts = ["".join(chr(int(code)) for code in rng.integers(65, 90, size=rng.integers(2, 9))) for _ in range(30)]
    return make_split(texts, rng.integers(0, 2, size=30), Words())


def test_measures_accuracy_and_exact_costs_of_the_extracted_network(supernet: Supernet, rows: Split) -> None:
    supernet.train()
    study = search(supernet, supernet.space, rows, ["accuracy", "macs", "parameters", "size_mib"], budget=5, seed=0)
    assert supernet.training and supernet.model.training
    supernet.eval()
    assert [measurement.state for measurement in study.measurements] == ["measured"] * 5
    for measurement in study.measurements:
        module = supernet.extract(measurement.candidate).eval()
        costs = cost(module, {"input_ids": torch.ones(1, 128, dtype=torch.long)[:, :16]})
        assert measurement.values["accuracy"] == accuracy(predict(module, rows), rows.labels)
        assert measurement.values["parameters"] == costs.parameters
        assert measurement.values["macs"] == costs.macs
        assert measurement.values["size_mib"] == pytest.approx(costs.size_mib)


def test_macs_are_those_of_the_example(supernet: Supernet) -> None:
    example = {"input_ids": torch.ones(2, 12, dtype=torch.long), "attention_mask": torch.ones(2, 12, dtype=torch.long)}
    study = search(supernet, supernet.space, None, ["macs"], budget=3, seed=0, example_inputs=example)
    for measurement in study.measurements:
        assert measurement.values["macs"] == cost(supernet.extract(measurement.candidate), example).macs


def test_accuracy_and_macs_repeat_exactly(supernet: Supernet, rows: Split) -> None:
    first, second = (
        search(supernet, supernet.space, rows, ["accuracy", "macs"], budget=8, seed=3, threads=1, latency=QUICK)
        for _ in range(2)
    )
    assert [(m.candidate, m.values) for m in first.measurements] == [
        (m.candidate, m.values) for m in second.measurements
    ]


def test_latency_keeps_its_reference_over_a_resumed_search(supernet: Supernet, rows: Split, tmp_path: Path) -> None:
    storage = tmp_path / "study.journal"
    run = partial(
        search, supernet, supernet.space, rows, ["latency_ms", "macs"], seed=0, storage=storage, latency=QUICK
    )
    before = run(budget=2)
    assert all(measurement.values["latency_ms"] > 0 for measurement in before.measurements)
    stored = json.loads(reference_path(storage).read_text())
    assert stored["count"] == 3 and stored["lowest_ms"] <= stored["median_ms"] <= stored["highest_ms"]
    assert {"batch", "tokens", "threads", "runtime", "precision", "machine"} <= set(stored["measured_on"])
    after = run(budget=3)
    again = json.loads(reference_path(storage).read_text())
    assert after.measurements[:2] == before.measurements
    assert again["median_ms"] == stored["median_ms"] and again["count"] == 4
    run(budget=3)
    assert json.loads(reference_path(storage).read_text()) == again


def test_latencies_measured_otherwise_are_refused(supernet: Supernet, rows: Split, tmp_path: Path) -> None:
    storage = tmp_path / "study.journal"
    run = partial(search, supernet, supernet.space, rows, ["latency_ms"], seed=0, storage=storage)
    run(budget=1, latency=QUICK)
    with pytest.raises(UserError, match="begun with tokens 8, here it is 9"):
        run(budget=2, latency=LatencySettings(tokens=9, repeats=1, warmup=0))
    reference_path(storage).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        run(budget=2, latency=QUICK)


def test_a_space_with_fewer_options_and_another_algorithm(supernet: Supernet, rows: Split) -> None:
    fewer = Space(tuple(replace(c, options=c.options[1:]) if c.name == "ffn.0" else c for c in supernet.space.choices))
    assert 1 <= len(fewer["ffn.0"].options) < len(supernet.space["ffn.0"].options)
    for algorithm in (random_search, partial(linas, config=LinasConfig(first_batch=2))):
        study = search(supernet, fewer, rows, ["macs"], budget=4, seed=0, algorithm=algorithm, latency=QUICK)
        assert len({measurement.candidate for measurement in study.measurements}) == 4
        for measurement in study.measurements:
            example = {"input_ids": torch.ones(1, 8, dtype=torch.long)}
            assert measurement.values["macs"] == cost(supernet.extract(measurement.candidate), example).macs


def test_a_choice_that_nothing_knows_is_refused(supernet: Supernet, rows: Split) -> None:
    joined = Space((search_spaces.Choice("colour", ("red", "blue"), ordered=False),)) + supernet.space
    with pytest.raises(UserError, match="choices of the super-network only, got colour"):
        search(supernet, joined, rows, ["macs"], budget=4, seed=0, latency=QUICK)


def blocks(module: nn.Module) -> float:
    return float(sum(isinstance(part, nn.LayerNorm) for part in module.modules()))


def test_an_objective_of_the_users_own(supernet: Supernet) -> None:
    own = f"{__name__}:blocks"
    study = search(supernet, supernet.space, None, [own], budget=4, seed=0)
    assert {measurement.values[own] for measurement in study.measurements} <= {3.0, 5.0}
    maximised = search(supernet, supernet.space, None, [Objective(own, "maximize")], budget=4, seed=0)
    assert maximised.front()[0].values[own] == 5.0


def test_objectives_by_name() -> None:
    assert objective("accuracy", limit=0.9) == Objective("accuracy", "maximize", 0.9)
    assert objective("latency_ms").direction == "minimize"
    with pytest.raises(
        UserError,
        match="one of accuracy, r2, latency_ms, macs, parameters, size_mib, energy_mj, memory_mib or your own",
    ):
        objective("speed")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("accuracy", "accuracy needs validation rows"),
        ("macs", "costs of a network need an example"),
        ("latency_ms", "latency of a network need an example"),
        ("no_such_module:f", "cannot be imported"),
        ("os:sep", "must be a function"),
        ("speed", "must be one of"),
    ],
)
def test_what_cannot_be_measured(supernet: Supernet, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        search(supernet, supernet.space, None, [name], budget=1, seed=0)
    with pytest.raises(UserError, match="tokens of latency must be at least 1"):
        LatencySettings(tokens=0)


def test_what_a_worker_gets_measures_the_same(supernet: Supernet, rows: Split) -> None:
    """Sent as Ray sends it: all but latency, which stays with the process that owns the search."""
    import ray

    own, caught = f"{__name__}:blocks", []

    def algorithm(space: Space, evaluate: Staged, objectives: Sequence[Objective], **settings: object) -> Study:
        caught.append(evaluate)
        return Study(space, objectives)

    names = ["latency_ms", "accuracy", "macs", own]
    search(supernet, supernet.space, rows, names, budget=4, seed=0, algorithm=algorithm, latency=QUICK)
    function = caught[0].function
    there = ray.cloudpickle.loads(ray.cloudpickle.dumps(function))
    candidates = supernet.space.decode(supernet.space.random(4, np.random.default_rng(0)))
    here, sent = function(candidates), there(candidates)
    assert [(m.candidate, dict(m.values)) for m in sent] == [(m.candidate, dict(m.values)) for m in here]
    assert list(here[0].values) == names[1:]
    complete = caught[0].completed(sent[0])
    assert list(complete.values) == names and complete.values["latency_ms"] > 0


def test_latencies_in_a_database_need_a_place_for_the_full_networks(supernet: Supernet, rows: Split) -> None:
    with pytest.raises(UserError, match="latencies in a database need latency_file"):
        search(supernet, supernet.space, rows, ["latency_ms"], budget=1, seed=0, storage="sqlite:///unused.db")


def test_a_warm_start_learns_everything_but_latency(supernet: Supernet, rows: Split, tmp_path: Path) -> None:
    run = partial(search, supernet, supernet.space, rows, seed=0, latency=QUICK)
    before = run(["accuracy", "macs"], budget=3, storage=tmp_path / "before.journal")
    after = run(["accuracy", "latency_ms"], budget=2, warm_start=tmp_path / "before.journal")
    assert [m.known for m in after.measurements] == [True] * 3 + [False] * 2
    for known, measured in zip(after.measurements, before.measurements, strict=False):
        assert known.candidate == measured.candidate and known.values["accuracy"] == measured.values["accuracy"]
        assert known.values["latency_ms"] > 0
    with pytest.raises(NoFeasible, match="no sub-network has macs <= 1; the smallest has"):
        run([objective("macs", limit=1.0)], budget=2)
