"""What the benchmark of the searches concludes from curves, and how it reads the problems."""

from pathlib import Path

import numpy as np
import pytest
import search
from search_peers import PEERS, Measured
from search_problems import Peers, Problem, Variant, names

READER = """
from dataclasses import dataclass
import numpy as np

@dataclass
class Table:
    choices = [(1, 2), (4, 6, 8), (0.5, 1.0)]
    objectives = ("error", "cost")

    def evaluate(self, x):
        x = self.canonical(x)
        return np.stack([3.0 - x.sum(axis=1), x.sum(axis=1) * 1.0], axis=1)

    def canonical(self, x):
        x = np.array(x)
        x[x[:, 0] == 0, 2] = 0
        return x

    def hypervolume(self, front):
        return float(len(front))

def load(name, root):
    return Table()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "problems.py").write_text(READER, encoding="utf-8")
    (tmp_path / "easy.npz").touch()
    return tmp_path


def test_conditions_are_found_and_equal_networks_counted_once(folder: Path) -> None:
    assert names(folder) == ["easy"]
    space = Problem(folder, "easy", Variant(), 0).space
    assert space["gene.2"].active_if == ("gene.0", (2,)) and space["gene.1"].active_if is None
    assert space.size() == 3 + 6


def test_a_shuffled_problem_has_the_same_values_under_other_numbers(folder: Path) -> None:
    plain, shuffled = Problem(folder, "easy", Variant(), 3), Problem(folder, "easy", Variant(shuffled=True), 3)
    assert not any(choice.ordered for choice in shuffled.space.choices)
    candidate = {"gene.0": 2, "gene.1": 6, "gene.2": 1.0}
    there, here = (p.evaluate([p.space.candidate(candidate)]) for p in (plain, shuffled))
    assert (there == here).all()


def test_noise_belongs_to_a_candidate_and_spares_the_true_values(folder: Path) -> None:
    noisy = Problem(folder, "easy", Variant(noise=0.3), 0)
    candidates = [noisy.space.largest(), noisy.space.smallest()]
    values = noisy.evaluate(candidates)
    assert (values == noisy.evaluate(candidates[::-1])[::-1]).all()
    apart = values - noisy.values(noisy.space.encode(candidates))
    assert (apart[:, 0] != 0).all() and (apart[:, 1] == 0).all()
    assert noisy.curve(candidates, 1) == [1.0, 2.0]


def test_figures_are_the_first_evaluations_that_reach_the_peers(tmp_path: Path) -> None:
    lines = ["problem,algorithm,version,seed,evaluations,hypervolume"]
    for name in ("big", search.SMALL):
        for kind, best in (("integer", 0.9), ("categorical", 0.8)):
            lines += [f"{name},pymoo-nsga2-{kind},-,0,{n},{best}" for n in (*search.BUDGETS, 2000)]
        lines += [f"{name},linas-dynast,-,{seed},250,{0.4 + seed / 10}" for seed in range(3)]
    (tmp_path / "baselines.csv").write_text("\n".join(lines), encoding="utf-8")
    peers = Peers.read(tmp_path / "baselines.csv")
    curve = np.linspace(0.005, 1.0, 200).tolist()
    curves = {"big-linas": curve, f"{search.SMALL}-linas": curve}
    found = search.figures(["big", search.SMALL], curves, peers)
    assert found["evaluations_ratio_nsga2"] == pytest.approx(900 / 2000)
    assert found["evaluations_ratio_linas"] == pytest.approx(500 / 250)
    assert found["macro_gap_400"] == pytest.approx(0.9 - 0.4)
    assert found["worst_gap_to_nsga2"] == pytest.approx(0.9 - 0.05)
    assert found["big_linas_250"] == pytest.approx(0.25) and found["big_reached_nsga2"] == 1


def test_the_gaps_are_the_largest_shortfalls_against_the_record() -> None:
    counts = {label: list(counts) for label, counts in search.COMPARED.items()}
    record = {"seeds": [0, 1, 2]} | {
        label: {"evaluations": each, "problems": {"easy": {"medians": [0.5] * len(each)}}}
        for label, each in counts.items()
    }
    plain, other = search.Run("easy", "linas", 1000, range(4)), search.Run("easy", "nsga2", 1000, range(4))
    hard = search.Run("easy", "linas", 1000, range(4), "noisy_")
    # The fourth seed is not among the recorded ones; a search that has ended counts with its last value.
    curves = [[0.4] * 15 + [0.6], [0.55], [0.7], [0.0]]
    good, bad = ([{"curve": curve} for curve in found] for found in (curves, [[0.0]] * 4))
    found = search.behind({plain: good, other: bad, hard: bad}, record)
    assert found == {"few_gap": pytest.approx(-0.05), "late_gap": pytest.approx(-0.1)}
    assert search.behind({other: bad}, record) == {}


def test_a_rugged_problem_differs_in_the_first_objective_alone(folder: Path) -> None:
    plain, rugged, again = (Problem(folder, "rough", variant, 3) for variant in (Variant(), *[Variant(rugged=0.5)] * 2))
    rows = plain.space.random(50, np.random.default_rng(0))
    apart = rugged.values(rows) - plain.values(rows)
    assert (apart[:, 1] == 0).all() and 0.2 < apart[:, 0].std() / plain.values(rows)[:, 0].std() < 1
    assert (rugged.values(rows) == again.values(rows)).all()
    assert rugged.evaluate(plain.space.decode(rows)).tolist() == rugged.values(rows).tolist()


def test_a_level_that_is_never_reached_counts_as_the_whole_budget() -> None:
    assert search.first_at([0.1, 0.2], 0.5, 1000) == 1000 and search.first_at([0.1, 0.6], 0.5, 1000) == 10
    assert search.median_curve([{"curve": [1.0]}, {"curve": [2.0, 4.0]}, {"curve": [3.0, 5.0]}]) == [2.0, 4.0]


def test_peers_pay_for_distinct_candidates_only(folder: Path) -> None:
    problem = Problem(folder, "easy", Variant(), 0)
    measured = Measured(problem, 2)
    rows = np.array([[0, 1, 0], [0, 1, 1], [1, 1, 1]])
    assert measured(rows).shape == (3, 2) and measured.ended
    assert measured.candidates == problem.space.decode(rows[1:])


@pytest.mark.parametrize("peer", PEERS)
def test_peers_are_told_what_they_asked_for(folder: Path, peer: str) -> None:
    problem = Problem(folder, "easy", Variant(), 0)
    found = PEERS[peer](problem, 6, 0)
    assert len(set(found)) == len(found) == 6
