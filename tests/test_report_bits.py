"""A report of a search that chose the precision of every layer: a map of bits, and one group in words."""

import csv
import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from searched import ACCURACY, BLOCKS, LATENCY, LAYERS, MACS, SIZE, precisions, reported, space, study
from test_report_page import HOSTILE, MOST_BYTES, Parsed, parsed, strings

from hardware.policy import PrecisionChoices
from nas import random_search
from nas.reporting.bits import KINDS
from nas.reporting.chosen import Exported
from nas.reporting.columns import short_names
from nas.reporting.page import drawn
from nas.reporting.precisions import Precisions, precisions_in_words
from nas.reporting.search_page import Reported, search_page
from nas.reporting.strips import Strips
from nas.reporting.table import Marks, write_front
from nas.runs.exported import keep_exported, read_exported
from nas.runs.folder import RunFolder
from nas.searching.measurement import Measurement, Objective
from nas.searching.study import Study
from search_spaces import Candidate, Choice, Space
from search_spaces.quantization import is_precision

JOINED = space() + precisions()
ALL = ("int4-weights", "int8", "int8-weights", "float32")


def candidate(of: Space = JOINED, **options: object) -> Candidate:
    """The full network with other options; a double underscore stands for a dot."""
    given = {name.replace("__", "."): option for name, option in options.items()}
    whole = {**of.full(), **given}
    for choice in of.choices:
        if choice.active_if is not None and whole[choice.active_if[0]] not in choice.active_if[1]:
            whole[choice.name] = None
    return of.candidate(whole)  # type: ignore[arg-type]


def cells(figure: dict[str, Any]) -> dict[tuple[int, str], tuple[str, str]]:
    """(place of the column, name of the row) -> the colour and what a cell says."""
    rows = dict(zip(figure["layout"]["yaxis"]["tickvals"], figure["layout"]["yaxis"]["ticktext"], strict=True))
    found = {}
    for trace in figure["data"]:
        for place, width in zip(trace["y"], trace["x"], strict=True):
            key = round(trace["base"] + width / 2), rows[place]
            assert key not in found
            found[key] = trace["marker"]["color"], trace["hovertemplate"]
    return found


@pytest.mark.parametrize("objectives", [(ACCURACY, LATENCY), (ACCURACY, MACS, SIZE)])
def test_a_cell_for_each_layer_of_each_member(objectives: tuple[Objective, ...]) -> None:
    found = study(objectives, of=space() + precisions(options=ALL))
    figure = parsed(reported(found)).figures["bits"]
    front, names = found.front(), [f"{block}.{name}" for block in range(BLOCKS) for name in LAYERS]
    assert figure["layout"]["yaxis"]["ticktext"] == [
        "embeddings",
        "everything else",
        *names,
        "pooler.dense",
        "classifier",
    ]
    drawn_cells = cells(figure)
    assert len(drawn_cells) == 40 * len(front)
    second = objectives[1]
    cheap_first = sorted(range(len(front)), key=lambda number: front[number].values[second.name])
    # The fastest, or the smallest, first; the numbers are those of the table.
    assert figure["layout"]["xaxis"]["ticktext"] == [str(number + 1) for number in cheap_first]
    for place, number in enumerate(cheap_first):
        chosen = front[number].candidate
        floating = chosen["floating"]
        options: dict[str, object] = {f"{name}": chosen[f"precision.bert.encoder.layer.{name}"] for name in names}
        options |= {"pooler.dense": chosen["precision.bert.pooler.dense"], "classifier": chosen["precision.classifier"]}
        options |= {"embeddings": chosen["precision.embeddings"], "everything else": floating}
        for row, option in options.items():
            kind = "gone" if option is None else str(floating) if option == "float32" else str(option)
            color, said = drawn_cells[place, row]
            assert color == KINDS[kind].color
            assert f"number {number + 1}" in said
            assert ("block is dropped" if option is None else kind) in said
            assert f"accuracy {100 * front[number].values['accuracy']:.1f} %" in said


def test_legend_has_each_kind_once_and_the_chosen_one_is_framed() -> None:
    found = study((ACCURACY, LATENCY), of=JOINED)
    figure = parsed(reported(found, limits={"max_latency_ms": 14.0})).figures["bits"]
    legend = [trace["name"] for trace in figure["data"] if trace["showlegend"]]
    assert legend == [KINDS[kind].name for kind in ("int8-weights", "int8", "bfloat16", "float32", "gone")]
    chosen = found.select(max_latency_ms=14.0)
    place = figure["layout"]["xaxis"]["ticktext"].index(str(found.front().index(chosen) + 1))
    (frame,), (mark,) = figure["layout"]["shapes"], figure["layout"]["annotations"]
    assert (frame["x0"], frame["x1"], mark["x"], mark["text"]) == (place - 0.5, place + 0.5, place, "chosen")
    assert sum("chosen" in trace["hovertemplate"] for trace in figure["data"]) >= 1
    # A click picks the row of the table.
    assert all(set(trace["customdata"]) <= set(range(1, len(found.front()) + 1)) for trace in figure["data"])


def test_figure_is_one_that_plotly_knows() -> None:
    from plotly.graph_objects import Figure

    figure = parsed(reported(study((ACCURACY, LATENCY), of=JOINED))).figures["bits"]
    Figure(data=figure["data"], layout=figure["layout"])


@pytest.mark.parametrize(("limit", "count"), [(0.001, 60), (None, 0)])
def test_without_members_there_is_no_map(limit: float | None, count: int) -> None:
    page = parsed(reported(study((ACCURACY, replace(LATENCY, limit=limit)), count=count, of=JOINED)))
    assert "bits" not in page.figures
    assert "Precision by layer" not in page.text


def test_one_member() -> None:
    figure = parsed(reported(study((ACCURACY, LATENCY), count=1, of=JOINED))).figures["bits"]
    assert len(cells(figure)) == 40
    assert {color for color, _ in cells(figure).values()} == {KINDS["float32"].color}
    assert len(figure["layout"]["shapes"]) == 1


def test_one_objective() -> None:
    page = parsed(reported(study((ACCURACY,), of=JOINED)))
    assert len(cells(page.figures["bits"])) == 40
    assert "by its number; " in page.text


def test_without_precisions_nothing_is_said_of_them() -> None:
    page = drawn(search_page(reported(study((ACCURACY, LATENCY)))))
    assert "bits" not in Parsed(page).figures
    assert "recision" not in Parsed(page).text


@pytest.mark.parametrize("embeddings", [(), ("int8-weights", "float32")])
@pytest.mark.parametrize("floating", [(), ("bfloat16", "float32")])
def test_what_is_no_choice_is_floating(embeddings: tuple[str, ...], floating: tuple[str, ...]) -> None:
    found = study((ACCURACY, LATENCY), of=space() + precisions(embeddings=embeddings, floating=floating))
    figure = parsed(reported(found)).figures["bits"]
    rows = figure["layout"]["yaxis"]["ticktext"]
    assert rows[: rows.index("0.attention.self.query")] == ["embeddings"] * bool(embeddings) + ["everything else"]
    assert any(trace["name"] == "16 bits" for trace in figure["data"]) == bool(floating)


def test_large_maps_stay_below_the_limit() -> None:
    blocks, objectives = 24, (ACCURACY, *(Objective(f"own_{i}") for i in range(3)))
    of, rng = space(blocks) + precisions(blocks, options=ALL), np.random.default_rng(0)
    measured = [
        Measurement(each, {o.name: float(rng.random()) for o in objectives}, "measured", None, 1.0)
        for each in [of.full(), *of.decode(of.random(15, rng))]
    ]
    found = Study(of, objectives, measured)
    page = drawn(search_page(reported(found)))
    assert len(page.encode()) < MOST_BYTES
    assert Parsed(page).figures["bits"]["layout"]["height"] > 16 * 148
    # More members than there is room for: the ends and the chosen one stay.
    line = [
        Measurement(each, {"accuracy": 0.9 - 0.001 * i, "latency_ms": 200.0 - i}, "measured", None, 1.0)
        for i, each in enumerate(of.decode(of.random(150, rng)))
    ]
    found = Study(of, (ACCURACY, LATENCY), line)
    assert len(found.front()) == 150
    limits = {"max_latency_ms": 130.5}
    page = drawn(search_page(reported(found, limits=limits)))
    assert len(page.encode()) < MOST_BYTES
    figure = Parsed(page).figures["bits"]
    numbers = {number for trace in figure["data"] for number in trace["customdata"]}
    assert {1, 150, found.front().index(found.select(limits)) + 1} <= numbers
    assert 60 <= len(numbers) <= 61
    assert f"{len(numbers)} of the 150 members are shown" in Parsed(page).text
    assert len(figure["layout"]["xaxis"]["ticktext"]) <= 21


def hostile_precisions() -> Reported:
    """Names and options that nobody would give."""
    names = (f"precision.{HOSTILE}.0.%{{y}}", f"precision.{HOSTILE}.%{{x}}{HOSTILE}", "precision.plain")
    choices = (
        Choice("depth", (1, 2)),
        *(Choice(name, (HOSTILE, "int8", "float32")) for name in names),
        Choice(f"weights.{names[1].removeprefix('precision.')}", ("symmetric", "asymmetric"), (names[1], ("int8",))),
        Choice("precision.embeddings", (HOSTILE, "float32")),
        Choice("floating", (f"%{{y}}{HOSTILE}", "float32")),
    )
    of = Space(choices)
    objectives = (ACCURACY, Objective(f"latency_ms_%{{y}}{HOSTILE}"))
    measured = [
        Measurement(each, {o.name: 1.0 + i for o in objectives}, "measured", None, 1.0)
        for i, each in enumerate(dict.fromkeys([of.full(), of.smallest(), *of.decode(of.random(6, _rng()))]))
    ]
    return reported(Study(of, objectives, measured))


def _rng() -> np.random.Generator:
    return np.random.default_rng(1)


def test_foreign_names_are_text() -> None:
    page = drawn(search_page(hostile_precisions()))
    found = Parsed(page)
    assert "<script>alert" not in page
    figure = found.figures["bits"]
    for text in strings(figure):
        assert not re.search(r"<(?!br>|extra>|/extra>)", text), text
    templates = [trace["hovertemplate"] for trace in figure["data"]]
    assert templates
    # Plotly is to put in the name of the row alone.
    assert all(template.count("%{") == 1 for template in templates)


@pytest.mark.parametrize(
    ("paths", "names", "left_out"),
    [
        (
            ["bert.encoder.layer.0.query", "bert.encoder.layer.1.query", "bert.pooler.dense", "classifier"],
            ["0.query", "1.query", "pooler.dense", "classifier"],
            "bert.encoder.layer",
        ),
        (["net.fc1", "net.fc2", "net.fc3"], ["fc1", "fc2", "fc3"], "net"),
        (["0", "2", "4"], ["0", "2", "4"], ""),
        (["layer1.0.conv1", "layer2.0.conv1", "fc"], ["layer1.0.conv1", "layer2.0.conv1", "fc"], ""),
        # Two would be alike.
        (["a.b.0.x", "a.b.1.x", "0.x"], ["a.b.0.x", "a.b.1.x", "0.x"], ""),
        (["only.one"], ["only.one"], ""),
        ([], [], ""),
        ([f"{'long' * 20}.end"], [f"…{('long' * 20 + '.end')[-33:]}"], ""),
    ],
)
def test_short_names(paths: list[str], names: list[str], left_out: str) -> None:
    assert short_names(paths) == (names, left_out)


def test_words() -> None:
    of = Precisions.of(JOINED)
    assert of is not None and len(of.layers) == 38
    assert of.said(JOINED.full()) == "all in float32"
    assert of.said(candidate(floating="bfloat16")) == "all in bfloat16"
    some = {f"precision__bert__encoder__layer__{block}__{LAYERS[0].replace('.', '__')}": "int8" for block in range(3)}
    small = {"precision__embeddings": "int8-weights", "floating": "bfloat16"}
    assert of.said(candidate(**some, **small)) == "3 of 38 layers int8, embeddings int8-weights, rest bfloat16"
    assert of.parts(candidate(**some)) == ("3 of 38 layers int8", "rest float32")
    # Layers of dropped blocks do not count.
    assert of.said(candidate(**some, depth=4)) == "3 of 26 layers int8, rest float32"
    assert of.said(candidate(**small)) == "embeddings int8-weights, rest bfloat16"
    assert of.said({}) == "all in float32", "of another space"
    assert of.mean_bits(JOINED.full()) == 32
    assert of.mean_bits(candidate(floating="bfloat16")) == 16
    assert Precisions.of(space()) is None
    only = Precisions.of(Space((Choice("floating", ("bfloat16", "float32")),)))
    assert only is not None and only.said({"floating": "bfloat16"}) == "all in bfloat16"
    assert only.mean_bits({"floating": "bfloat16"}) == 16


def test_words_of_several_precisions() -> None:
    of = Space(
        (
            *(Choice(f"precision.{name}", ALL) for name in "abc"),
            *(
                Choice(f"weights.{name}", ("symmetric", "asymmetric"), (f"precision.{name}", ("int8",)))
                for name in "ab"
            ),
        )
    )
    group, named = Precisions.of(of), {"precision.a": "int8", "precision.b": "int8", "precision.c": "int4-weights"}
    assert group is not None and group.layers == ("a", "b", "c")
    odd = of.candidate({**named, "weights.a": "asymmetric", "weights.b": "symmetric"})
    assert group.said(odd) == "1 of 3 layers int4-weights, 2 int8 (1 with asymmetric weights), rest float32"
    assert group.mean_bits(odd) == pytest.approx(20 / 3)
    page = parsed(reported(Study(of, (ACCURACY,), [Measurement(odd, {"accuracy": 0.5}, "measured", None, 1.0)])))
    said = [said for _, said in cells(page.figures["bits"]).values()]
    assert sum("8 bits (int8, asymmetric weights)" in each for each in said) == 1
    assert sum("8 bits (int8)" in each for each in said) == 1
    assert sum("4 bits (int4-weights)" in each for each in said) == 1


def test_table_and_strips_have_precisions_as_one_group(tmp_path: Path) -> None:
    found = study((ACCURACY, LATENCY), of=JOINED)
    assert Strips.of(JOINED) == Strips.of(space())
    page = parsed(reported(found))
    group = Precisions.of(JOINED)
    assert group is not None
    for member in found.front():
        assert "\n".join(part for part in group.parts(member.candidate) if part) in page.text
        assert any(group.said(member.candidate) in text for text in strings(page.figures["front-chart"]))
    best = found.select()
    assert f"Precision: {group.said(best.candidate)}." in page.text
    assert "precision.bert" not in page.text
    assert "13 of sizes, 40 of precisions" in page.text
    write_front(found, Marks(None, None), tmp_path / "front.csv")
    with (tmp_path / "front.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {choice.name for choice in JOINED.choices} <= rows[0].keys()
    for row, member in zip(rows, found.front(), strict=True):
        group_of = {name: option or "" for name, option in member.candidate.items() if is_precision(name)}
        assert len(group_of) == 40
        assert {name: row[name] for name in group_of} == group_of


def compared(**more: object) -> dict[str, Any]:
    """What an export prints, as far as it is kept."""
    today = {"test_accuracy": 0.87, "latency_ms": 28.0, "macs": 2e9, "size_mib": 86.0, "predicted_latency_ms": None}
    return {
        "candidate": dict(candidate(floating="bfloat16")),
        "today": today,
        "full": today | {"latency_ms": 21.0},
        "chosen": today | {"test_accuracy": 0.862, "latency_ms": 7.0, "size_mib": 21.0},
        "accuracy_difference_points": -0.8,
        "accuracy_difference_interval": [-1.6, 0.1],
        "test_rows": 100,
        "deployment": {"runtime": "openvino", "precision": "by-layer"},
        "what_the_data_can_tell": "One cannot tell.",
        **more,
    }


INT8 = {"test_accuracy": 0.85, "latency_ms": 9.0, "macs": 2e9, "size_mib": 24.0, "predicted_latency_ms": None}


@pytest.mark.parametrize("int8", [{}, {"serving_int8": INT8, "serving_fp32": compared()["full"]}])
def test_the_full_network_in_int8_is_kept_and_shown(tmp_path: Path, int8: dict[str, object]) -> None:
    keep_exported(tmp_path, compared(**int8))
    record = read_exported(tmp_path)
    assert record is not None
    assert record.serving_int8 == (INT8 if int8 else None)
    exported = Exported(
        record.candidate,
        record.metric,
        record.today,
        record.full,
        record.chosen,
        record.points,
        record.interval,
        record.what_the_data_can_tell,
        record.deployment,
        record.serving_int8 or {},
    )
    page = parsed(reported(study((ACCURACY, LATENCY), of=JOINED), exported=exported))
    assert "Precision: all in bfloat16." in page.text
    assert "runtime openvino, precision by layer" in page.text
    shown = ("full network 87.0 %, all in INT8 85.0 %; 95 %", "21.0 ms, all in INT8 9.0 ms, today", "INT8 24.0 MiB")
    assert [text in page.text for text in shown] == [bool(int8)] * 3
    # What is the same in both is said once.
    assert page.text.count("all in INT8") == (3 if int8 else 0)


def test_records_of_exports_without_it_are_read(tmp_path: Path) -> None:
    keep_exported(tmp_path, compared())
    path = tmp_path / "exported.json"
    old = json.loads(path.read_text("utf-8"))
    del old["serving_int8"]
    path.write_text(json.dumps(old), encoding="utf-8")
    record = read_exported(tmp_path)
    assert record is not None and record.serving_int8 is None


def test_choices_in_words() -> None:
    plain = PrecisionChoices(("int8", "float32"))
    assert precisions_in_words(plain) == "layers int8 or float32; rest float32"
    many = PrecisionChoices(
        ("int8", "float32"), ("int8-weights", "float32"), ("bfloat16", "float32"), True, ("head.*",)
    )
    assert precisions_in_words(many) == (
        "layers int8 or float32; embeddings int8-weights or float32; rest bfloat16 or float32; "
        "weights of convolutions symmetric or asymmetric; in floating point stay head.*"
    )


def test_report_of_a_search_by_layer(nas_command: Command, finished: Path, tmp_path: Path) -> None:
    """Its journal is made by hand, of sizes of the run and of precisions."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    folder, choices = RunFolder(run), PrecisionChoices(floating=("bfloat16", "float32"))
    there = Space.from_json((folder.supernet / "space.json").read_text("utf-8"))
    layers = [Choice(f"precision.encoder.{block}.dense", ("int8", "float32")) for block in range(3)]
    of = there + Space((*layers, Choice("floating", choices.floating)))

    def evaluate(candidates: Any) -> list[list[float]]:
        encoded = of.encode(list(candidates)).sum(axis=1)
        return [[0.5 + 0.01 * float(each), 1e6 * (1 + float(each))] for each in encoded]

    path = folder.search("layers")
    path.mkdir(parents=True)
    random_search(of, evaluate, (ACCURACY, MACS), budget=12, seed=0, storage=path / "study.journal")
    record = json.loads((folder.search("default") / "search.json").read_text("utf-8"))
    record["asked"] |= {"runtime": "openvino", "quantize": json.dumps(asdict(choices))}
    (path / "search.json").write_text(json.dumps(record), encoding="utf-8")

    report = json.loads(nas_command("report", run, "--name", "layers", "--json").out)
    group = Precisions.of(of)
    assert group is not None
    assert report["chosen"]["precisions"] == group.said(report["chosen"]["candidate"])
    assert report["deployment"]["precision"] == "by-layer"
    assert Path(report["picture"]).read_bytes().startswith(b"\x89PNG")
    page = Parsed(Path(report["report"]).read_text("utf-8"))
    assert "bits" in page.figures
    assert "layers int8 or float32; rest bfloat16 or float32" in page.text
    assert "by layer" in page.text and "by-layer" not in page.text
