"""What commands print for people at their end: sentences and tables of what `--json` gives as one object."""

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from nas.compared import HEADS
from nas.console import print_table
from nas.objectives import quantity
from nas.reporting.words import Figures, precision_of, shortened
from nas.sentences import listed, points, printable

_MOST_ROWS, _LONGEST = 20, 400
_AGAIN, _NO_NUMBER = "measured_", "no number"

Result = Mapping[str, Any]
SUB_NETWORK, PRUNED_NETWORK = "sub-network", "pruned network"
"""What the networks of a search are called."""


def print_finetuned(result: Result, out: TextIO) -> None:
    """Print the result of `nas finetune`: the data, the training, and what full and smaller networks reach by now."""
    metric = next(name.removeprefix("validation_") for name in result if name.startswith("validation_"))
    rows, score = result["rows"], result[f"validation_{metric}"]
    classes = f"; {len(result['classes'])} classes: {listed(result['classes'])}" if result["classes"] else ""
    _line(out, f"Rows: {', '.join(f'{count:,} {name}' for name, count in rows.items())}{classes}")
    _line(out, f"Trained for {result['steps']:,} steps in {_duration(result['seconds'])}, loss {result['loss']:.3f}")
    shown = _NO_NUMBER if score is None else quantity(metric).shown(score)
    label = quantity(metric).label
    _line(out, f"Full network: {label} {shown} on the {rows.get('validation', 0):,} validation rows")
    probed = result["probed"]
    if probed:
        title = f"Some of its sub-networks, on {result['probed_rows']:,} validation rows"
        _print_probed(title, metric, probed, out)
    _line(out, f"Super-network: {result['run']} (nas search measures its sub-networks)")


def _print_probed(title: str, metric: str, probed: Result, out: TextIO) -> None:
    costs = {name: Figures(name, [each[name] for each in probed.values()]) for name in ("macs", "parameters")}
    full = probed["full"]
    rows = {}
    for name, each in probed.items():
        score = each[metric]
        cells = [_NO_NUMBER if score is None else quantity(metric).shown(score)]
        for cost, figures in costs.items():
            change = "" if name == "full" else f" ({figures.change(each[cost], full[cost])})"
            cells.append(figures(each[cost]) + change)
        rows[name.replace("_", " ")] = cells
    print_table(title, [quantity(metric).label, *(quantity(name).label for name in costs)], rows, out)


def print_search(result: Result, out: TextIO, *, noun: str = SUB_NETWORK) -> None:
    """Print the result of `nas search`: the front as a table, and what its figures hold for; `noun` is of a network."""
    counts = [f"{_counted(result['measured'], noun)} measured"]
    counts += ["all that there are"] if result["every_sub_network"] else []
    counts += [f"{result[name]:,} {said}" for name, said in _COUNTED.items() if result[name]]
    _line(out, f"Search {result['search']} of {result['run']}: {', '.join(counts)}")
    _print_front(result, out, noun)
    _print_conditions(result["deployment"], out)
    _line(out, f"Table: {result['table']}")


_COUNTED = {"failed": "failed", "known": "known from before"}


def _print_front(result: Result, out: TextIO, noun: str) -> None:
    front, full = result["front"], result["full"]
    members: dict[str, Result] = {str(number): values for number, values in enumerate(front[:_MOST_ROWS], 1)}
    if full is not None:
        members["full network"] = full
    names = list(dict.fromkeys(name for values in [*front, *members.values()] for name in values))
    figures = {
        name: Figures(name.removeprefix(_AGAIN), [values[name] for values in members.values() if name in values])
        for name in names
    }
    rows = {
        member: [figures[name](values[name]) if name in values else "" for name in names]
        for member, values in members.items()
    }
    print_table(f"The front: {_counted(len(front), noun)}", [_head(name) for name in names], rows, out)
    if len(front) > _MOST_ROWS:
        _line(out, f"{len(front) - _MOST_ROWS:,} more are in the table")


def _head(name: str) -> str:
    label = quantity(name.removeprefix(_AGAIN)).label
    return f"{label}, measured again" if name.startswith(_AGAIN) else label


def print_report(result: Result, out: TextIO, *, noun: str = SUB_NETWORK) -> None:
    """Print the result of `nas report`: what was chosen, and where the page and the pictures are; `noun` as above."""
    if "search" in result:
        front = f"{_counted(result['measured'], noun)} measured, {result['front']:,} on the front"
        _line(out, f"Search {result['search']} of {result['run']}: {front}")
        _print_chosen(result["chosen"], out)
        _print_conditions(result["deployment"], out)
    for name, said in _FILES.items():
        if name in result:
            _line(out, f"{said}: {result[name]}")


_FILES = {
    "report": "Page, to open in a browser",
    "picture": "Picture of the front",
    "table": "Table of the front",
    "training": "Picture of the fine-tuning",
}


_IN_WORDS = ("sizes", "precisions")


def _print_chosen(chosen: Result | None, out: TextIO) -> None:
    if chosen is None:
        _line(out, "Chosen: none")
        return
    values = {name: value for name, value in chosen.items() if name not in ("candidate", *_IN_WORDS)}
    said = [f"{_head(name)} {_shown(name, value)}" for name, value in values.items()]
    _line(out, f"Chosen: {'; '.join(said)}")
    for name in _IN_WORDS:
        if name in chosen:
            _line(out, f"Its {name}: {shortened(chosen[name], _LONGEST)}")


_COMPARED = ("latency_ms", "macs", "parameters", "size_mib")


def print_comparison(result: Result, out: TextIO) -> None:
    """Print the result of an export of a network: the full network, today and in the deployment, and the chosen one."""
    # If the deployment is eager PyTorch, the two columns of the full network are equal, and one is enough.
    names = [n for n in HEADS if n in result and (n != "full" or result["full"] != result["today"])]
    networks, today, chosen = [result[name] for name in names], result["today"], result["chosen"]
    rows = _score_row(result, networks)
    for name in _COMPARED:
        rows[quantity(name).label] = _cost_row(name, [each[name] for each in networks], chosen[name], today[name])
    predicted = "predicted_latency_ms"
    if chosen.get(predicted) is not None:
        values = [each.get(predicted) for each in networks]
        rows["latency predicted"] = _cost_row("latency_ms", values, chosen[predicted], result["full"][predicted])
    print_table("Full and chosen network", [*(HEADS[name] for name in names), "difference"], rows, out)
    how = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in result["deployment"].items())
    print(f"{result['what_the_data_can_tell']}\nMeasured interleaved in one process: {how}.", file=out)
    print(f"Exported to {result['export']}; its README.md says how to load it.", file=out)


def _score_row(result: Result, networks: Sequence[Result]) -> dict[str, list[str]]:
    """The scores on test rows, and the difference of the chosen one from the full network today."""
    metric = "accuracy" if "test_accuracy" in result["chosen"] else "r2"
    values = [each[f"test_{metric}"] for each in networks]
    figures = Figures(metric, [value for value in values if value is not None])
    difference, (low, high) = result[f"{metric}_difference_points"], result[f"{metric}_difference_interval"]
    known = None not in (difference, low, high)
    change = f"{points(difference)} points [{points(low)}, {points(high)}]" if known else _NO_NUMBER
    return {f"test {quantity(metric).label}": [*(_cell(figures, value, _NO_NUMBER) for value in values), change]}


def _cost_row(name: str, values: Sequence[float | None], chosen: float | None, full: float | None) -> list[str]:
    """A cost of all networks, empty where it is unknown, and the change of the chosen one."""
    figures = Figures(name, [value for value in values if value is not None])
    change = _NO_NUMBER if chosen is None or full is None else figures.change(chosen, full)
    return [*(_cell(figures, value, "") for value in values), change]


def _cell(figures: Figures, value: float | None, none: str) -> str:
    return none if value is None else figures(value)


def print_pruned(result: Result, out: TextIO) -> None:
    """Print the result of `nas prune`: the stages, the networks that were asked for, and all of them measured."""
    stages = {
        name: [
            f"{each['forms']:,}",
            f"{each['front']:,}",
            f"{each['failed']:,}",
            f"{100 * each['base_error']:.1f} %",
        ]
        for name, each in result["sub_networks"].items()
    }
    heads = ["forms trained", "on the front", "failed", "error of the original"]
    print_table("Stages of the network", heads, stages, out)
    removed = {
        name: [f"{100 * each['pruned_parameters']:.1f} %", f"{100 * each['pruned_macs']:.1f} %"]
        for name, each in result["networks"].items()
    }
    print_table("Networks asked for", ["parameters removed", "multiply-accumulates removed"], removed, out)
    print_search(result, out, noun=PRUNED_NETWORK)


def print_profile(result: Result, out: TextIO) -> None:
    """Print what a device profile says, of `nas profile` and `nas profile-result`."""
    _line(out, f"Profile of {result['model']}: {result['profile']}")
    conditions = {name: result[name] for name in ("runtime", "precision", "threads", "batch", "tokens")}
    _print_conditions(conditions, out)
    measured = _counted(result["sub_networks"], "sub-network")
    full = _shown("latency_ms", result["full_network_ms"])
    _line(out, f"Full network: {full}; {measured} measured beside it in {_duration(result['seconds'])}")
    judged = result["held_out"]
    if judged is None:
        _line(out, "Predictions: too few sub-networks to say how good they are")
    else:
        _line(out, f"Predictions of rows that were left out: {_judgement(judged)}")
    floor = result["noise_floor_percent"]
    if floor is not None:
        _line(out, f"Noise: the same sub-network differs by {floor:.1f} % from beginning to end")


def _judgement(judged: Result) -> str:
    tau, error, inside = (judged[name] for name in ("kendall_tau", "mape_percent", "inside_90_percent_intervals"))
    parts = [] if error is None else [f"off by {error:.1f} % in the mean"]
    parts += [] if tau is None else [f"rank correlation (Kendall tau) {tau:.2f}"]
    parts += [] if inside is None else [f"{100 * inside:.0f} % of them inside their 90 % intervals"]
    return ", ".join(parts) or _NO_NUMBER


def _print_conditions(conditions: Result, out: TextIO) -> None:
    """What the latencies hold for: the runtime, its settings and the machine."""
    runtime = " ".join(str(conditions[name]) for name in ("runtime", "runtime_version") if name in conditions)
    parts = [f"{runtime}, {precision_of(str(conditions['precision']))}"]
    parts += [_counted(conditions["threads"], "thread"), f"batch {conditions['batch']}"]
    parts += [_counted(conditions["tokens"], "token")] if conditions.get("tokens") is not None else []
    parts += [str(conditions["machine"])] if "machine" in conditions else []
    _line(out, f"Runs in: {', '.join(parts)}")


def _shown(name: str, value: float) -> str:
    return Figures(name.removeprefix(_AGAIN), [value])(value)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _line(out: TextIO, text: str) -> None:
    print(printable(text), file=out)
