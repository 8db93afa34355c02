"""Laws of the domains of a search, for a space and for a toy domain of trees: draws, keys, JSON, studies and kills."""

import json
import math
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_trees import POINTS, Tree, Trees, canonical, depth, value

from nas.errors import UserError
from nas.searching.ageing import AgeingConfig, ageing_evolution
from nas.searching.domain import Domain
from nas.searching.enumeration import every_row
from nas.searching.kept import KeptFiles
from nas.searching.listed import Listed
from nas.searching.measurement import Measurement, Objective
from nas.searching.random_search import random_search
from nas.searching.space_domain import SpaceDomain, as_domain
from nas.searching.study import Study, load_study
from nas.workers import Map, Workers, mapped
from search_spaces.space import Candidate, Choice, Space

HERE = Path(__file__).parent
SPACE = Space(
    (
        Choice("depth", (1, 2, 3)),
        *(Choice(f"heads.{i}", (2, 4, 6, 8), active_if=("depth", tuple(range(i + 1, 4)))) for i in range(3)),
        Choice("channels", range(8, 65, 8)),
        Choice("precision", ("int8", "fp32"), ordered=False),
    )
)
DOMAINS: dict[str, Domain[Any]] = {"space": SpaceDomain(SPACE), "trees": Trees(3), "counted": Trees(2, counted=True)}
OBJECTIVES = (Objective("accuracy", "maximize"), Objective("cost"))
SEARCHES: dict[str, Callable[..., Study[Any]]] = {
    "random": random_search,
    "ageing": lambda *args, **kwargs: ageing_evolution(*args, config=AgeingConfig(8, 0.5), **kwargs),
}


class Hashed:
    """Values of any candidates, from their JSON; some fail. It is interrupted after `calls` candidates."""

    def __init__(self, domain: Domain[Any], calls: int = -1) -> None:
        self.domain, self.left, self.seen = domain, calls, list[Any]()

    def __call__(self, candidates: Sequence[Any]) -> np.ndarray:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.seen.extend(candidates)
        return np.array([self.values(candidate) for candidate in candidates])

    def values(self, candidate: Any) -> list[float]:
        number = zlib.crc32(json.dumps(self.domain.to_json(candidate), sort_keys=True).encode())
        return [math.nan if number % 7 == 0 else number % 1009 / 1009, float(number % 101)]


def searched(domain: Domain[Any], search: str, storage: Any = None, calls: int = -1, **changed: Any) -> Study[Any]:
    settings: dict[str, Any] = {"budget": 30, "seed": 5, "storage": storage, **changed}
    return SEARCHES[search](domain, Hashed(domain, calls), OBJECTIVES, **settings)


def told(study: Study[Any]) -> list[tuple[Any, dict[str, float], str, str | None, bool]]:
    return [(m.candidate, dict(m.values), m.state, m.reason, m.known) for m in study.measurements]


@pytest.fixture(params=sorted(DOMAINS))
def domain(request: pytest.FixtureRequest) -> Domain[Any]:
    return DOMAINS[request.param]


@pytest.fixture(params=sorted(SEARCHES))
def search(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def drawn(domain: Domain[Any], count: int = 300) -> Any:
    rng = np.random.default_rng(0)
    genes = domain.sample(count, rng)
    return np.concatenate([genes, domain.mutate(genes, rng)])


def test_draws_and_mutants_are_canonical_and_repeat_with_their_generator(domain: Domain[Any]) -> None:
    genes = drawn(domain)
    assert len(genes) == 600 and (domain.canonical(genes) == genes).all()
    assert (drawn(domain) == genes).all()
    candidates = domain.decode(genes)
    assert (domain.encode(candidates) == genes).all() and domain.decode(domain.encode(candidates)) == candidates
    assert len(domain.encode([])) == 0 and domain.decode(domain.encode([])) == []
    changed = [a != b for a, b in zip(candidates[:300], candidates[300:], strict=True)]
    assert np.mean(changed) > 0.4


def test_keys_are_equal_where_candidates_are(domain: Domain[Any]) -> None:
    genes = drawn(domain)
    candidates, keys = domain.decode(genes), domain.keys(genes)
    assert len(set(candidates)) == len(set(keys)) == len(set(zip(candidates, keys, strict=True))) > 10
    assert domain.keys(domain.encode(candidates)) == keys


def test_forms_of_one_candidate_become_one() -> None:
    trees, tree = Trees(3), ("add", ("x",), ("mul", ("x",), ("1",)))
    turned = ("add", ("mul", ("1",), ("x",)), ("x",))
    assert trees.decode(trees.encode([tree, turned])) == [canonical(tree)] * 2
    assert trees.from_json(turned) == trees.from_json(tree) == canonical(tree)


def test_candidates_are_written_and_read(domain: Domain[Any]) -> None:
    for candidate in domain.decode(drawn(domain)):
        assert domain.from_json(json.loads(json.dumps(domain.to_json(candidate)))) == candidate
        shown = {name: option for name, option in domain.parameters(candidate).items() if option is not None}
        assert all(option in domain.options(name) for name, option in shown.items())
        if domain.parameters_suffice:
            assert domain.from_json(shown) == candidate
    for wrong in ({"depth": 7}, ["tan"], {}, []):
        with pytest.raises((ValueError, TypeError)):
            domain.from_json(wrong)


def test_domains_are_written_and_read(domain: Domain[Any]) -> None:
    identity = json.loads(json.dumps(domain.identity()))
    again = type(domain).from_identity(identity)
    assert again.identity() == domain.identity() and again.size() == domain.size()
    assert (again.sample(50, np.random.default_rng(1)) == domain.sample(50, np.random.default_rng(1))).all()
    for wrong in (None, 3, [], {"version": 1}, "{}"):
        with pytest.raises(ValueError):
            type(domain).from_identity(wrong)


@pytest.mark.parametrize("name", ["space", "counted"])
def test_counted_candidates_are_as_many_as_are_listed(name: str) -> None:
    of: Domain[Any] = SpaceDomain(Space(SPACE.choices[:3])) if name == "space" else DOMAINS[name]
    every = of.every()
    assert len(set(of.keys(every))) == len(every) == of.size()
    assert set(of.keys(of.sample(200, np.random.default_rng(0)))) <= set(of.keys(every))


@pytest.mark.parametrize(("search", "place"), [("random", "journal"), ("ageing", "journal"), ("ageing", "database")])
def test_a_study_is_read_and_resumed_as_it_was_written(
    domain: Domain[Any], search: str, place: str, tmp_path: Path
) -> None:
    storage = f"sqlite:///{tmp_path}/studies.db#one" if place == "database" else tmp_path / place
    read = type(domain).from_identity
    study = searched(domain, search, storage)
    again = load_study(storage, read)
    assert told(again) == told(study) == told(searched(domain, search)) and len(told(study)) == 30
    assert len({m.candidate for m in study.measurements}) == 30
    assert again.domain.identity() == domain.identity()
    assert again.front() == study.front() and again.select() == study.select()
    assert told(searched(domain, search, storage, calls=0)) == told(study), "nothing is measured again"
    longer = searched(domain, search, storage, budget=40)
    assert told(longer) == told(searched(domain, search, budget=40)) == told(load_study(storage, read))


def test_a_killed_search_goes_on_to_the_same_study(domain: Domain[Any], search: str, tmp_path: Path) -> None:
    for lag in (1, 4):
        whole = told(searched(domain, search, lag=lag))
        for killed_after in (0, 1, 9, 29):
            path = tmp_path / f"{lag}-{killed_after}.journal"
            with pytest.raises(KeyboardInterrupt):
                searched(domain, search, path, killed_after, lag=lag)
            assert len(load_study(path, type(domain).from_identity).measurements) == killed_after
            assert told(searched(domain, search, path)) == whole


def test_known_results_are_seen_stored_and_not_measured(domain: Domain[Any], search: str, tmp_path: Path) -> None:
    known, path = searched(domain, "random", seed=9, budget=6).measurements, tmp_path / "study.journal"
    study = searched(domain, search, path, known=known)
    assert [m.candidate for m in study.measurements[:6]] == [m.candidate for m in known]
    assert [m.known for m in study.measurements] == [True] * 6 + [False] * 30
    assert len({m.candidate for m in study.measurements}) == 36
    assert told(searched(domain, search, path, calls=0, known=known)) == told(study)
    with pytest.raises(UserError, match="another known"):
        searched(domain, search, path)


def test_another_domain_is_refused_and_the_study_kept(domain: Domain[Any], tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    searched(domain, "random", path, budget=3)
    before = path.read_bytes()
    for other in (Trees(5), SpaceDomain(Space(SPACE.choices[:-1]))):
        with pytest.raises(UserError, match=r"another space; name another file"):
            searched(other, "random", path)
    for other in (each for each in DOMAINS.values() if type(each) is not type(domain)):
        with pytest.raises(UserError, match=r"study at .* its candidates are n"):
            load_study(path, type(other).from_identity)
    assert path.read_bytes() == before


def test_a_trial_that_was_changed_is_refused(domain: Domain[Any], tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    searched(domain, "random", path, budget=5)
    lines = path.read_text(encoding="utf-8").splitlines()
    trial = json.loads(lines[-1])
    if domain.parameters_suffice:
        del trial["params"]["precision"], trial["distributions"]["precision"]
    else:
        trial["user_attrs"]["supersieve_candidate"] = ["neg", ["neg", ["neg", ["1"]]]]
    path.write_text("\n".join([*lines[:-1], json.dumps(trial, separators=(",", ":"))]) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="damaged, or another program changed it"):
        load_study(path, type(domain).from_identity)


def test_tables_and_optuna_show_the_parameters(domain: Domain[Any]) -> None:
    study = searched(domain, "random")
    table, trials = study.to_pandas(), study.to_optuna().trials
    assert {column for column in table if column.startswith("params_")} == {
        f"params_{name}" for m in study.measurements for name in domain.parameters(m.candidate)
    }
    for measurement, trial in zip(study.measurements, trials, strict=True):
        parameters = domain.parameters(measurement.candidate)
        assert trial.params == {name: option for name, option in parameters.items() if option is not None}


def test_only_a_space_has_one(domain: Domain[Any]) -> None:
    study = Study(domain, OBJECTIVES)
    if isinstance(domain, SpaceDomain):
        assert study.space is domain.space and as_domain(domain) is domain and as_domain(SPACE) == domain
    else:
        with pytest.raises(UserError, match="those of a space, they are of Trees"):
            _ = study.space


def test_a_counted_domain_is_measured_as_a_whole_and_another_ends_where_nothing_new_is_drawn(search: str) -> None:
    counted, uncounted = Trees(2, counted=True), Trees(1)
    assert (size := counted.size()) is not None
    found = searched(counted, search, budget=10_000).measurements
    assert len(found) == len({m.candidate for m in found}) == size
    found = searched(uncounted, search, budget=10_000).measurements
    assert {m.candidate for m in found} == set(uncounted.every()) and len(found) == len(uncounted.every())


class Alike(Trees):
    """Trees that are the same function count as one."""

    def key(self, candidate: Tree) -> str:
        return str(value(candidate, POINTS).round(9).tolist())


def test_of_candidates_that_a_domain_takes_for_one_the_first_is_measured(search: str, tmp_path: Path) -> None:
    of, path = Alike(3), tmp_path / "study.journal"
    with pytest.raises(KeyboardInterrupt):
        searched(of, search, path, 17)
    study = searched(of, search, path)
    assert told(study) == told(searched(of, search)) == told(load_study(path, Alike.from_identity))
    assert len({of.key(m.candidate) for m in study.measurements}) == 30
    one = Measurement(("x",), {"accuracy": 0.5, "cost": 1.0}, "measured", None, 0.0)
    with pytest.raises(UserError, match="name each candidate once"):
        searched(of, search, known=[one, replace(one, candidate=("neg", ("neg", ("x",))))])


def test_a_list_of_candidates_is_measured_in_its_order(domain: Domain[Any], tmp_path: Path) -> None:
    candidates = tuple(dict.fromkeys(domain.decode(drawn(domain))))[:12]
    evaluate = Hashed(domain)
    study = Listed(candidates)(domain, evaluate, OBJECTIVES, budget=12, seed=0, storage=tmp_path / "study.journal")
    assert [m.candidate for m in study.measurements] == evaluate.seen == list(candidates)


def test_files_of_a_candidate_are_found_by_its_content(domain: Domain[Any], tmp_path: Path) -> None:
    files = KeptFiles(tmp_path, domain.to_json)
    candidates = set(domain.decode(drawn(domain)))
    assert len({files.of(candidate) for candidate in candidates}) == len(candidates)
    with files.writing(candidate := min(candidates, key=repr)) as folder:
        (folder / "weights").write_text("1")
    again = domain.from_json(json.loads(json.dumps(domain.to_json(candidate))))
    assert (KeptFiles(tmp_path, domain.to_json).of(again) / "weights").read_text() == "1"


def test_a_study_of_a_space_is_what_earlier_versions_wrote(tmp_path: Path) -> None:
    space = Space(
        (
            Choice("depth", (1, 2)),
            Choice("heads", range(2, 9, 2), active_if=("depth", (2,))),
            Choice("bits", ("int8", "fp32"), ordered=False),
        )
    )
    measured: list[Candidate] = []

    def evaluate(candidates: Sequence[Candidate]) -> list[list[float]]:
        measured.extend(candidates)
        rows = space.encode(candidates)
        return [[math.nan if c["bits"] == "fp32" else float(r.sum())] for c, r in zip(candidates, rows, strict=True)]

    def go_on(path: Path, budget: int) -> Study:
        known = [Measurement(space.smallest(), {"cost": 1.0}, "measured", None, 0.0)]
        return random_search(space, evaluate, [Objective("cost")], budget=budget, seed=0, storage=path, known=known)

    def written(path: Path) -> list[Any]:
        operations = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for operation in operations[2:]:
            operation["user_attrs"].pop("seconds")
        parts = ("directions", "user_attr", "distributions", "params", "user_attrs", "value", "values", "state")
        return [{part: operation.get(part) for part in parts} for operation in operations]

    old, new = tmp_path / "old.journal", tmp_path / "new.journal"
    shutil.copy(HERE / "study_of_a_space.journal", old)
    go_on(new, 3)
    assert json.dumps(written(new)) == json.dumps(written(old)) and len(measured) == 3
    assert told(go_on(old, 3)) == told(load_study(old)) and len(measured) == 3
    assert told(go_on(old, 9)) == told(go_on(new, 9))
    assert len(every_row(space)) == 10 == len(load_study(old).measurements)


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Map]:
    with mapped(Workers(2), None) as pool:
        yield pool


@pytest.mark.slow
@pytest.mark.parametrize("name", ["space", "trees"])
@pytest.mark.parametrize("kind", sorted(SEARCHES))
def test_workers_change_nothing(name: str, kind: str, two_workers: Map, tmp_path: Path) -> None:
    of, path = DOMAINS[name], tmp_path / "study.journal"
    alone = told(searched(of, kind, lag=3))
    assert told(searched(of, kind, lag=3, pool=two_workers)) == alone
    with pytest.raises(KeyboardInterrupt):
        searched(of, kind, path, 11, lag=3)
    assert told(searched(of, kind, path, pool=two_workers)) == alone


def test_trees_are_what_they_should_be() -> None:
    assert len(Trees(1, counted=True).every()) == 2 + 2 + 3 + 3
    assert all(depth(tree) <= 3 for tree in drawn(Trees(3)))
