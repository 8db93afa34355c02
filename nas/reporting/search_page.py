"""What the page of a search says, section by section."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hardware.machine import in_words
from hardware.profile import DeviceProfile
from nas.learning.finetuned import ProbeRecord
from nas.objectives import is_latency, quantity
from nas.profiling.agreement import agreements
from nas.profiling.verification import Verified
from nas.records import Scalar
from nas.reporting.bits import bits_of
from nas.reporting.channels import channels_of
from nas.reporting.charts import Line, agreement_chart, line_chart, training_chart
from nas.reporting.chosen import Exported, comparison
from nas.reporting.history import Foreseen, foreseen, growth
from nas.reporting.members import Members, front_figure, table_of
from nas.reporting.page import Block, Chart, Facts, Note, Page, Pair, Section
from nas.reporting.precisions import precisions_in_words
from nas.reporting.table import Marks
from nas.reporting.words import condition, name_only, precision_of, shortened
from nas.searching.study import Study
from search_spaces.quantization import architecture

_MOST_ROWS, _MOST_CLASSES = 60, 12


@dataclass(frozen=True)
class Training:
    """The fine-tuning that a search is of: its probes, none where there were none; see `Finetuned`."""

    probes: Sequence[ProbeRecord] = ()
    metric: str = "accuracy"
    epoch_steps: int = 1
    steps: int = 0


@dataclass(frozen=True)
class Reported:
    """A search and what is known of its run.

    Args:
        run: the path of the run, as commands name it.
        name: of the search.
        model: that was fine-tuned, as the user named it.
        study: its measurements.
        marks: the full network and the chosen candidate.
        verified: what was measured again.
        profiles: that predict latencies, by the name of the objective.
        conditions: of the latencies.
        finetuning: the request of the fine-tuning, by flag.
        search: the request of the search, by flag.
        classes: names of the classes.
        rows: of each split.
        versions: of the libraries.
        training: the fine-tuning.
        exported: the comparison of an export; None where there was none.
        own_model: `module:factory` that commands must name again; None for a pre-trained model.
        limits: that the chosen one was chosen by, as flags.
        nothing_fits: why nothing was chosen.
        reasons: why the chosen one was, a sentence each without its full stop, where its figures do not say so.
        networks: what its candidates are called in the title.
        begun_by: what `finetuning` is the request of, as a heading.
        further: sections on how these networks were found.
    """

    run: str
    name: str
    model: str
    study: Study
    marks: Marks
    verified: Sequence[Verified] = ()
    profiles: Mapping[str, DeviceProfile] = field(default_factory=dict)
    conditions: Mapping[str, Scalar] = field(default_factory=dict)
    finetuning: Mapping[str, Scalar] = field(default_factory=dict)
    search: Mapping[str, Scalar] = field(default_factory=dict)
    classes: Sequence[str] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    training: Training = field(default_factory=Training)
    exported: Exported | None = None
    own_model: str | None = None
    limits: tuple[str, ...] = ()
    nothing_fits: str = ""
    reasons: tuple[str, ...] = ()
    networks: str = "Sub-networks"
    begun_by: str = "Fine-tuning"
    further: tuple[Section, ...] = ()

    def command(self, candidate: str | None, out: str) -> str:
        """The command that exports a candidate; None: the chosen one, by its limits."""
        named = self.limits if candidate is None else ("--candidate", candidate)
        own = ("--model", self.own_model) if self.own_model else ()
        return shlex.join(["nas", "export", self.run, "--name", self.name, *named, *own, "--out", out])


def search_page(reported: Reported) -> Page:
    """The page of a search, finished or not."""
    members = Members.of(reported.study, reported.marks, reported.verified, reported.command)
    return Page(
        title=f"{reported.networks} of {name_only(reported.model)}",
        kicker=f"Search {reported.name}",
        summary=_summary(reported),
        sections=(
            Section(
                "comparison",
                "Chosen network",
                _comparison(members, reported),
            ),
            Section("front", "Front", front_figure(members)),
            Section("members", "Members of the front", table_of(members)),
            Section("bits", "Precision by layer", bits_of(members)),
            Section("channels", "Channels by layer", channels_of(members)),
            *reported.further,
            Section("search", "Search", _search(reported)),
            Section("fine-tuning", "Fine-tuning", _training(reported.training)),
            Section("conditions", "Conditions of the latencies", _conditions(reported)),
            Section("request", "Request", _request(reported)),
        ),
    )


def _comparison(members: Members, reported: Reported) -> tuple[Block, ...]:
    return comparison(members, reported.exported, reported.nothing_fits, reported.reasons)


def _summary(reported: Reported) -> str:
    study = reported.study
    failed, known = sum(m.state == "failed" for m in study.measurements), sum(m.known for m in study.measurements)
    parts = [f"{study.measured_here:,} of {_size(study)} measured"]
    parts += [f"{known:,} known before"] if known else []
    parts += [f"{failed:,} failed"] if failed else []
    return ", ".join([*parts, f"{len(study.front()):,} on the front"]) + "."


def _search(reported: Reported) -> tuple[Block, ...]:
    grown = growth(reported.study)
    if grown is None:
        return ()
    share = "share of the box" if grown.of_box else "share of the volume at the end"
    caption = (
        "What the front dominates, between a little beyond the full network's costs and the ideal."
        if grown.of_box
        else "What the front dominates, below the worst values measured; the full network was not measured."
    )
    line = Line("hypervolume", grown.counts, grown.shares, style={"mode": "lines", "line": {"shape": "hv"}})
    volume = Chart("hypervolume", line_chart([line], "evaluations", share), caption, "Hypervolume")
    computed = {o.name for o in reported.study.objectives if quantity(o.name).source == "formula"}
    found = foreseen(reported.study, computed | set(reported.profiles))
    blocks: list[Block] = []
    if found:
        name, first = next(iter(found.items()))
        blocks.append(Pair((volume, _foreseen_chart(name, first))))
        blocks.append(
            Facts("How well results were foreseen from those before", tuple(map(_foreseen_row, found.items())))
        )
    else:
        blocks += [volume, Note("There are too few measured results yet to tell how well they can be predicted.")]
    again = agreements(reported.study.front(), reported.study.objectives, reported.verified)
    if again:
        rows = [
            (
                quantity(name).label,
                f"{each.count} measured again: "
                + _joined(
                    None if each.mape is None else f"off by {each.mape:.1f} % in the mean",
                    None if each.kendall_tau is None else f"Kendall tau {each.kendall_tau:.2f}",
                    f"{each.non_dominated} still on the front",
                ),
            )
            for name, each in again.items()
        ]
        blocks.append(Facts("The front, as the search had it and as measured again", tuple(rows)))
    return tuple(blocks)


def _foreseen_chart(name: str, found: Foreseen) -> Chart:
    scale = quantity(name).scale
    truth, predicted, spreads = (
        [scale * value for value in values] for values in (found.truth, found.predicted, found.spreads)
    )
    figure = agreement_chart(truth, predicted, spreads, quantity(name).axis)
    caption = (
        "Each result as a predictor saw it that had learned from the results before alone; bars are 90 % intervals."
    )
    return Chart("foreseen", figure, caption, "Predictor quality")


def _foreseen_row(item: tuple[str, Foreseen]) -> tuple[str, str]:
    name, found = item
    each = found.quality
    if len(set(found.truth)) == 1:
        return quantity(name).label, f"{each.count} results, all alike"
    return quantity(name).label, f"{each.count} results: " + _joined(
        None if each.kendall_tau is None else f"Kendall tau {each.kendall_tau:.2f}",
        None if each.mape is None else f"off by {each.mape:.1f} % in the mean",
        f"{100 * each.coverage:.0f} % within their 90 % intervals",
    )


def _joined(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)


def _training(training: Training) -> tuple[Block, ...]:
    if not training.probes:
        return ()
    known = quantity(training.metric)
    figure = training_chart(training.probes, training.epoch_steps, f"{known.axis} on validation rows", known.scale)
    caption = f"The largest, the smallest and some random sub-networks during the {training.steps:,} steps of training."
    return (Chart("training", figure, caption),)


def _conditions(reported: Reported) -> tuple[Block, ...]:
    measured = [o.name for o in reported.study.objectives if quantity(o.name).source == "measured"]
    deployment = tuple((name.replace("_", " "), condition(value)) for name, value in reported.conditions.items())
    blocks: list[Block] = []
    if deployment:
        blocks.append(Facts("Deployment", deployment))
    for name, profile in reported.profiles.items():
        blocks.append(Facts(f"{quantity(name).label}: predicted from a device profile", _profile(profile)))
    latencies = [name for name in measured if is_latency(name) and name not in reported.profiles]
    if latencies:
        how = "Measured beside the full network in one process, in turns; a figure is the median of their ratio."
        blocks.append(Note(how))
    if not any(map(is_latency, measured)):
        blocks.append(Note("This search has no latency; the deployment is what an export is written for."))
    return (Pair(tuple(blocks)),) if len(blocks) > 1 and not latencies else tuple(blocks)


def _profile(profile: DeviceProfile) -> tuple[tuple[str, str], ...]:
    machine, protocol = profile.machine, profile.protocol
    stable = sum(row.timing.stable for row in profile.rows)
    floor, precision = profile.noise_floor, precision_of(profile.precision)
    given = {
        "machine": f"{in_words(machine.processor, machine.cores)}, {machine.system}",
        "accelerator": machine.accelerator,
        "governor": machine.governor,
        "runtime": f"{profile.runtime} {profile.runtime_version}, {precision} on {profile.device}",
        "precisions": None if profile.precisions is None else precisions_in_words(profile.precisions),
        "threads": f"{profile.threads}",
        "input": f"batch {profile.batch}" + (f", {profile.tokens} tokens" if profile.tokens else "")
        + f", shape {' × '.join(map(str, profile.shape))}",
        "sub-networks": f"{len(profile.rows)} measured, {stable} of them stable",
        "full network": f"{profile.full_ms:.3g} ms",
        "clock": f"{protocol.clock} time, to ±{100 * protocol.tolerance:g} %",
        "noise": None if floor is None else f"{100 * floor:.1f} % between two measurements of one sub-network",
        "sizes": None if profile.multiple_of == 1 else f"multiples of {profile.multiple_of} alone",
    }  # fmt: skip
    return tuple((name, value) for name, value in given.items() if value)


def _request(reported: Reported) -> tuple[Block, ...]:
    classes = ", ".join(shortened(name, 60) for name in reported.classes[:_MOST_CLASSES])
    more = len(reported.classes) - _MOST_CLASSES
    data = [("rows", ", ".join(f"{count:,} {name}" for name, count in reported.rows.items()))] if reported.rows else []
    data += [("classes", f"{classes}, and {more:,} more" if more > 0 else classes)] if classes else []
    names, choices = ", ".join(o.name for o in reported.study.objectives), _choices(reported.study)
    search = {name: value for name, value in reported.search.items() if name != "objectives"}
    return (
        Pair(
            (
                Facts(reported.begun_by, (*_flags(reported.finetuning), *data)),
                Facts("Search", (("objectives", names), *_flags(search), ("choices", choices))),
            )
        ),
        Note("Versions: " + ", ".join(f"{name} {version}" for name, version in reported.versions.items()) + "."),
    )


def _flags(request: Mapping[str, Scalar]) -> tuple[tuple[str, str], ...]:
    """What was given or is not off, by flag."""
    said = [
        (name, value) for name, value in request.items() if value is not None and value is not False and value != ""
    ]
    return tuple((shortened(name, 60).replace("_", "-"), name_only(value)) for name, value in said[:_MOST_ROWS])


def _choices(study: Study) -> str:
    count, sizes = len(study.space.choices), len(architecture(study.space).choices)
    return f"{count}" if count == sizes else f"{sizes} of sizes, {count - sizes} of precisions"


def _size(study: Study) -> str:
    size = study.space.size()
    return f"{size:,} sub-networks" if size < 10**9 else f"more than 10^{math.floor(math.log10(size))} sub-networks"
