"""What the page of a search says: everything that it should, as text, and nothing that would be loaded."""

import html
import json
import re
import shlex
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from profiles import profile, subject
from searched import ACCURACY, LATENCY, MACS, R2, SIZE, reported, study

from nas.learning.finetuned import ProbeRecord
from nas.profiling.choice import estimates_of
from nas.profiling.verification import Verified
from nas.reporting.charts import plotly_source
from nas.reporting.chosen import Exported
from nas.reporting.page import drawn
from nas.reporting.search_page import Reported, Training, search_page
from nas.reporting.strips import Strips
from nas.searching.estimation import Hits
from nas.searching.measurement import Measurement, Objective
from nas.searching.study import Study
from search_spaces import Choice, Space

HOSTILE = "<script>alert(1)</script>&\"'</title>"
MOST_BYTES = 6_000_000


class Parsed(HTMLParser):
    """The elements of a page with their attributes, the text that is shown, and what each script holds."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._inside:
            del self._inside[len(self._inside) - 1 - self._inside[::-1].index(tag) :]

    def handle_data(self, data: str) -> None:
        if self._inside and self._inside[-1] == "script":
            self.scripts[-1] += data
        elif not self._inside or self._inside[-1] != "style":
            self.text += f"{data}\n"

    @property
    def figures(self) -> dict[str, dict[str, Any]]:
        """By the name of the chart."""
        names = [attributes["id"] for tag, attributes in self.elements if tag == "figure"]
        data = [text for (_, attributes), text in zip(self._of("script"), self.scripts, strict=True) if attributes]
        return dict(zip(map(str, names), map(json.loads, data), strict=True))

    @property
    def rows(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self._of("tr") if "data-command" in attributes]

    def _of(self, tag: str) -> list[tuple[str, dict[str, str | None]]]:
        return [each for each in self.elements if each[0] == tag]


def parsed(what: Reported) -> Parsed:
    return Parsed(drawn(search_page(what)))


OBJECTIVES = {
    "accuracy": (ACCURACY,),
    "accuracy, latency": (ACCURACY, replace(LATENCY, limit=26.0)),
    "R squared, macs": (R2, MACS),
    "two devices": (ACCURACY, Objective("latency_ms_phone"), Objective("latency_ms_laptop")),
    "four": (ACCURACY, LATENCY, SIZE, Objective("my_module:my_function")),
}


@pytest.mark.parametrize("objectives", OBJECTIVES.values(), ids=OBJECTIVES.keys())
@pytest.mark.parametrize("again", [False, True])
def test_every_member_of_the_front_is_in_the_table(objectives: tuple[Objective, ...], again: bool) -> None:
    found = study(objectives)
    page = search_page(reported(found, again=again))
    table = Parsed(drawn(page))
    assert [row.get("data-number") for row in table.rows][: len(found.front())] == [
        str(number) for number in range(1, len(found.front()) + 1)
    ]
    values = [float(str(a["data-value"])) for tag, a in table.elements if tag == "td" and "data-value" in a]
    for member in found.front():
        for value in member.values.values():
            assert any(each == pytest.approx(1.01 * value if again else value) for each in values)
    for number, row in enumerate(table.rows[: len(found.front())], 1):
        command = ["nas", "export", "run", "--name", "default", "--candidate", str(number)]
        assert shlex.split(str(row["data-command"]))[: len(command)] == command
    front = table.figures["front-chart"]
    kinds = [trace["meta"] for trace in front["data"]]
    assert {"front", "chosen", "full", "dominated"} - set(kinds) <= ({"dominated"} if len(objectives) > 2 else set())
    assert ("predicted" in kinds) == again
    assert len(front["axes"]) == max(2, len(objectives))
    for axis in front["axes"]:
        assert len(axis["values"]) == len(front["data"])
        assert len(axis["values"][kinds.index("front")]) == len(found.front())


def test_feasible_dominated_and_infeasible_are_told_apart() -> None:
    limited = (ACCURACY, replace(LATENCY, limit=18.0))
    found = study(limited, failed=3)
    page = parsed(reported(found))
    data = page.figures["front-chart"]["data"]
    names = {trace["meta"]: trace["name"] for trace in data}
    beyond = sum(m.values["latency_ms"] > 18 for m in found.measurements if m.state == "measured")
    # The full network is marked on its own.
    counts = len(found.front()), 60 - beyond - len(found.front()), beyond - 1
    assert [names[kind] for kind in ("front", "dominated", "beyond")] == [
        f"Pareto front ({counts[0]})",
        f"dominated ({counts[1]})",
        f"beyond a limit ({counts[2]})",
    ]
    assert page.figures["front-chart"]["axes"][1]["limit"] == 18.0
    assert "3 failed" in page.text


@pytest.mark.parametrize("count", [0, 1, 5])
def test_unfinished_search(count: int) -> None:
    page = parsed(reported(study((ACCURACY, LATENCY), count=count, failed=1)))
    assert f"{count} of " in page.text
    assert ("Nothing was measured yet." in page.text) == (count == 0)
    assert set(page.figures) == ({"front-chart", "hypervolume", "training"} if count else {"training"})


def test_without_the_full_network_the_volume_is_relative_to_its_end() -> None:
    page = parsed(reported(study((ACCURACY, LATENCY), full=False)))
    volumes = page.figures["hypervolume"]["data"][0]["y"]
    assert volumes == sorted(volumes)
    assert volumes[-1] == 1.0


def test_nothing_fits() -> None:
    found = study((ACCURACY, replace(LATENCY, limit=0.1)))
    page = parsed(reported(found, nothing_fits="no measured candidate has latency_ms of at most 0.1"))
    assert "no measured candidate has latency_ms of at most 0.1" in page.text
    kinds = {trace["meta"] for trace in page.figures["front-chart"]["data"]}
    assert kinds == {"beyond", "steps", "front", "full", "picked"}


def test_why_the_chosen_one_was() -> None:
    why = "It was chosen by an estimate & not by <b>luck</b>"
    assert f"{why}." in parsed(reported(study((ACCURACY, LATENCY)), reasons=(why,))).text
    assert "It was chosen by an estimate" not in parsed(reported(study((ACCURACY, LATENCY)))).text


def hostile() -> Reported:
    """Everything that comes from elsewhere is hostile."""
    choices = (Choice(f"{HOSTILE}.0", (1, 2)), Choice(f"{HOSTILE}.1", (1, 2)), Choice("kind", ("a", HOSTILE)))
    space = Space(choices)
    objectives = (ACCURACY, Objective(f"latency_ms_{HOSTILE}"), Objective(HOSTILE))
    measurements = [
        Measurement(c, {o.name: 1.0 + (i * (j + 2)) % 5 for j, o in enumerate(objectives)}, "measured", None, 1.0)
        for i, c in enumerate(space.decode(space.encode([space.full(), space.smallest()])))
    ]
    device = profile(subject())
    machine = device.machine.model_copy(update={"processor": HOSTILE})
    return reported(
        Study(space, objectives, measurements),
        run=f"/runs/{HOSTILE}",
        name=HOSTILE,
        model=HOSTILE,
        own_model=HOSTILE,
        classes=(HOSTILE,),
        conditions={HOSTILE: HOSTILE},
        finetuning={HOSTILE: HOSTILE},
        search={HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE},
        profiles={objectives[1].name: device.model_copy(update={"machine": machine})},
        exported=Exported({}, HOSTILE, {}, {}, {}, None, (None, None), HOSTILE, {HOSTILE: HOSTILE}),
    )


def test_foreign_text_is_text() -> None:
    page = drawn(search_page(hostile()))
    found = Parsed(page)
    kinds = [attributes.get("type") for tag, attributes in found.elements if tag == "script"]
    # Plotly and ours run; the others hold data.
    assert sorted(kinds, key=str) == sorted([None, None, *["application/json"] * len(found.figures)], key=str)
    assert found.text.count("<script>alert(1)</script>") > 10
    assert "<script>alert" not in page
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    for figure in found.figures.values():
        for text in strings(figure | {"axes": [each | {"name": ""} for each in figure.get("axes", [])]}):
            assert not re.search(r"<(?!br>|extra>|/extra>)", text), text
    for row in found.rows:
        assert shlex.split(str(row["data-command"]))[2:5] == [f"/runs/{HOSTILE}", "--name", HOSTILE]


def strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for each in value.values() for text in strings(each)]
    if isinstance(value, list):
        return [text for each in value for text in strings(each)]
    return [value] if isinstance(value, str) else []


def test_nothing_is_loaded_and_the_policy_says_so() -> None:
    page = drawn(search_page(reported(study((ACCURACY, LATENCY)), again=True)))
    found = Parsed(page)
    for tag, attributes in found.elements:
        assert tag not in ("link", "iframe", "object", "embed", "img", "base", "form"), tag
        assert not {"src", "srcset", "action", "data", "poster"} & attributes.keys()
        assert str(attributes.get("href") or "#").startswith("#")
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    assert not re.search(r"url\(|@import|@font-face", style[1])
    own = [text for text in found.scripts if text != plotly_source()]
    assert len(own) == len(found.scripts) - 1
    assert not any("://" in text for text in own)
    policy = html.unescape(str(next(a["content"] for tag, a in found.elements if tag == "meta" and "http-equiv" in a)))
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert all(source.startswith("'sha256-") for source in f"{rules['script-src']} {rules['style-src-elem']}".split())
    assert set(rules) - {"default-src", "script-src", "style-src-elem"} == {"style-src-attr", "base-uri", "form-action"}


@pytest.mark.parametrize("objectives", [(ACCURACY, LATENCY), (ACCURACY, *(Objective(f"own_{i}") for i in range(3)))])
def test_thousands_of_candidates_stay_below_the_limit(objectives: tuple[Objective, ...]) -> None:
    found = study(objectives, count=5000)
    page = drawn(search_page(reported(found, again=True)))
    assert len(page.encode()) < MOST_BYTES
    text = Parsed(page).text
    assert "points are left out, evenly" in text
    assert (f"of the {len(found.front()):,} members are shown; front.csv has all" in text) == (len(found.front()) > 500)


def test_profiles_are_among_the_conditions() -> None:
    device = profile(subject())
    names = ("latency_ms_phone", "latency_ms_laptop")
    found = study((ACCURACY, *map(Objective, names)))
    page = parsed(reported(found, profiles=dict.fromkeys(names, device)))
    for label in ("phone", "laptop"):
        assert f"latency on {label}: predicted from a device profile" in page.text
    assert page.text.count(device.machine.processor) == 2
    # They are computed, so how well they can be predicted from results says nothing.
    assert page.text.count("Kendall tau") == 1


def test_comparison_of_an_export() -> None:
    found = study((ACCURACY, LATENCY))
    member = found.front()[2]
    today = {"test_accuracy": 0.87, "latency_ms": 28.0, "macs": 2e9, "parameters": 2e7, "size_mib": 86.0}
    small = {"test_accuracy": 0.862, "latency_ms": 14.0, "macs": 1e9, "parameters": 1e7, "size_mib": 43.0}
    full = today | {"latency_ms": 21.0}
    conditions = {"runtime": "openvino", "machine": "another machine"}
    exported = Exported(
        dict(member.candidate), "accuracy", today, full, small, -0.8, (-1.6, 0.1), "One cannot tell.", conditions
    )
    page = parsed(reported(found, exported=exported))
    for text in (
        "On test rows: number 3, as it was exported",
        "−0.8 points",
        "full network 87.0 %; 95 % interval −1.6 to +0.1",
        "1.50 times as fast",
        "full network 21.0 ms, today 28.0 ms",
        "−50 %",
        "One cannot tell.",
        "runtime openvino, machine another machine",
    ):
        assert text in page.text, text


def test_estimates_for_new_rows_stand_beside_what_was_measured() -> None:
    found = study((ACCURACY, MACS))
    rng = np.random.default_rng(0)
    easy = rng.random(1000)
    rows = {m.candidate: Hits.of(easy < m.values["accuracy"] + rng.normal(0, 0.05, 1000)) for m in found.front()}
    rows[found.space.full()] = Hits.of(easy < 0.87)
    verified = [
        Verified(candidate, {}, {"accuracy": float(hits.array().mean())}, hits=hits) for candidate, hits in rows.items()
    ]
    page = parsed(reported(found, verified=verified))
    expected = estimates_of(found, verified)
    assert set(expected) == set(rows)
    assert "accuracy (%) on new rows" in page.text
    assert "accuracy, estimated" in page.text
    for member in found.front():
        each = expected[member.candidate]
        assert f"{100 * each.value:.1f}\n{100 * each.low:.1f} to {100 * each.high:.1f}" in page.text
        assert f"{100 * each.raw:.1f}\nsearch {100 * member.values['accuracy']:.1f}" in page.text
    assert any("on new rows" in text for text in strings(page.figures["front-chart"]))
    assert "accuracy (%) on new rows" not in parsed(reported(found)).text


def test_scores_that_were_no_number_are_gaps() -> None:
    probes = [ProbeRecord(step=10 * n, largest=0.5, smallest=None, random=[0.4] * n) for n in range(1, 4)]
    page = parsed(reported(study((R2, MACS)), training=Training(probes, "r2", 10, 30)))
    data = {trace["name"]: trace for trace in page.figures["training"]["data"]}
    assert data["largest"]["y"] == [0.5] * 3
    assert data["smallest"]["y"] == [None] * 3
    assert data["random 3"]["y"] == [None, None, 0.4]
    assert data["random"]["x"] == [1.0, 2.0, 3.0]


def test_strip_of_a_sub_network() -> None:
    space = Space(
        (
            Choice("depth", (1, 2)),
            Choice("heads.0", (2, 4)),
            Choice("heads.1", (2, 4), active_if=("depth", (2,))),
        )
    )
    strips = Strips.of(space)
    assert (strips.names, [each.name for each in strips.singles]) == (("heads",), ["depth"])
    small = space.candidate({"depth": 1, "heads.0": 2, "heads.1": None})
    assert strips.said(small) == ("depth 1", "heads 2 ·")
    assert strips.bars(small).count("M") == 1
    assert strips.background().count("M") == 2
    assert strips.bars(space.full()) == strips.background()


def test_figures_are_ones_that_plotly_knows() -> None:
    from plotly.graph_objects import Figure

    page = parsed(reported(study((ACCURACY, LATENCY)), again=True))
    assert set(page.figures) == {"front-chart", "hypervolume", "foreseen", "training"}
    for figure in page.figures.values():
        Figure(data=figure["data"], layout=figure["layout"])


@pytest.mark.filterwarnings("ignore")
def test_plots_of_optuna_work_on_a_study() -> None:
    import optuna.visualization as plots

    found = study((ACCURACY, LATENCY), count=30, failed=2).to_optuna()
    assert len(plots.plot_pareto_front(found).data) >= 2
    first = {"target": lambda trial: trial.values[0], "target_name": "accuracy"}
    assert plots.plot_optimization_history(found, **first).data
    importances = plots.plot_param_importances(found, params=["heads.0", "ffn.0"], **first)
    assert set(importances.data[0].y) == {"heads.0", "ffn.0"}


@pytest.mark.slow
def test_command_names_the_page(nas_command: Command, finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "a run"))
    report = json.loads(nas_command("report", run, "--json").out)
    page = Path(report["report"])
    assert page == run / "searches" / "default" / "report.html"
    found = Parsed(page.read_text(encoding="utf-8"))
    assert len([row for row in found.rows if "data-number" in row]) == report["front"]
    command = shlex.split(str(found.rows[0]["data-command"]))
    out = tmp_path / "out"
    exported = json.loads(nas_command(*command[1:-1], out, "--json").out)
    assert exported["search"]["name"] == "default"
    text = Parsed(Path(json.loads(nas_command("report", run, "--json").out)["report"]).read_text(encoding="utf-8")).text
    assert "On test rows: number 1, as it was exported" in text
    assert exported["what_the_data_can_tell"] in text
    answer = nas_command("report", run, "--max-macs", "1")
    assert (answer.status, "report.html shows what was measured" in answer.err) == (3, True)
    assert "macs" in Parsed(page.read_text(encoding="utf-8")).text
