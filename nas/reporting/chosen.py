"""The chosen network beside the full one: as exported, on test rows, and as chosen, on validation rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nas.objectives import is_latency
from nas.records import Scalar
from nas.reporting.charts import Value
from nas.reporting.members import Members, interval_of
from nas.reporting.page import Block, Card, Cards, Note
from nas.reporting.precisions import Options, Precisions
from nas.reporting.words import Figures, condition
from nas.searching.estimation import Estimate
from nas.sentences import points


@dataclass(frozen=True)
class Exported:
    """The comparison of an export on test rows.

    Args:
        candidate: that was exported.
        metric: of the task.
        today, full, chosen: figures of each network by name, see `nas.exporting.comparison.Comparison`.
        points: chosen minus today, None where it is no number.
        interval: of the points.
        said: what the data can tell.
        conditions: of the latencies.
        serving_int8: figures of the full network with all layers in INT8, where precision goes by layer.
    """

    candidate: Mapping[str, Scalar]
    metric: str
    today: Mapping[str, Value]
    full: Mapping[str, Value]
    chosen: Mapping[str, Value]
    points: Value
    interval: Sequence[Value]
    said: str
    conditions: Mapping[str, Scalar]
    serving_int8: Mapping[str, Value] = field(default_factory=dict)


def comparison(
    members: Members, exported: Exported | None, nothing_fits: str, reasons: Sequence[str] = ()
) -> tuple[Block, ...]:
    """The exported sub-network on test rows, where there is one, and the chosen one on validation rows.

    Args:
        members: the front, with the full and the chosen network.
        exported: the comparison of an export.
        nothing_fits: why there is no chosen one.
        reasons: why the chosen one is, where its figures do not say so.
    """
    validation = _on_validation_rows(members, nothing_fits, reasons, advise=exported is None)
    return (*_on_test_rows(exported, members), *validation)


def _on_test_rows(exported: Exported | None, members: Members) -> tuple[Block, ...]:
    if exported is None:
        return ()
    found = next((m for m in members.shown if dict(m.measurement.candidate) == dict(exported.candidate)), None)
    which = "a sub-network" if found is None else f"number {found.number}" if found.number else f"the {found.role}"
    conditions = ", ".join(
        f"{name.replace('_', ' ')} {condition(value)}" for name, value in exported.conditions.items()
    )
    return (
        Cards(f"On test rows: {which}, as it was exported", _exported_cards(exported)),
        *_precisions(members, exported.candidate),
        Note(exported.said, quiet=False),
        Note(f"Neither training nor search has seen these rows. Conditions: {conditions}."),
    )


def _on_validation_rows(
    members: Members, nothing_fits: str, reasons: Sequence[str], *, advise: bool
) -> tuple[Block, ...]:
    chosen, full = members.chosen, members.full
    if chosen is None:
        return (Note(nothing_fits or "Nothing is chosen yet.", quiet=False),)
    cards = []
    for objective in members.study.objectives:
        words, value = members.words[objective.name], chosen.delivered(objective.name)
        label = words.known.label
        if objective.name == members.estimated and chosen.estimate is not None:
            cards.append(_estimated(chosen.estimate, None if full is None else full.estimate, words, value))
            continue
        if full is None:
            cards.append(Card(label, words(value)))
            continue
        whole = full.delivered(objective.name)
        share = value / whole if objective.direction == "minimize" and whole > 0 and value >= 0 else None
        cards.append(Card(label, words(value), words.change(value, whole), f"full network {words(whole)}", share))
    which = f"number {chosen.number}, the chosen one" if chosen.number else "the chosen one"
    advice = "; nas export compares it on test rows, and the next report shows that" if advise else ""
    estimated = members.estimated is not None and chosen.estimate is not None
    flatters = "and its estimate for new rows allows for that" if estimated else "which flatters it a little"
    said = f"It was chosen by these rows, {flatters}{advice}."
    precisions = _precisions(members, chosen.measurement.candidate)
    why = [Note(f"{reason}.", quiet=False) for reason in reasons]
    return (Cards(f"On validation rows: {which}", tuple(cards)), *precisions, *why, Note(said))


def _precisions(members: Members, candidate: Options) -> tuple[Block, ...]:
    """A sentence on the precisions of a network, where they were chosen."""
    precisions = Precisions.of(members.study.space)
    return () if precisions is None else (Note(f"Precision: {precisions.said(candidate)}.", quiet=False),)


def _estimated(chosen: Estimate, full: Estimate | None, words: Figures, measured: float) -> Card:
    """The score on new rows beside the one measured, which a choice among many has made too good."""
    beside = f"95 % interval {interval_of(chosen, words)}; measured {words(measured)}"
    if full is None:
        return Card(f"{words.known.label}, estimated", words(chosen.value), "", beside)
    change, whole = words.change(chosen.value, full.value), f"full network {words(full.value)}; "
    return Card(f"{words.known.label}, estimated", words(chosen.value), change, whole + beside)


def _exported_cards(exported: Exported) -> tuple[Card, ...]:
    """The figures of a comparison on test rows, as cards."""
    today, full, chosen, int8 = exported.today, exported.full, exported.chosen, exported.serving_int8
    cards = []
    score, before, coarse = (each.get(f"test_{exported.metric}") for each in (chosen, today, int8))
    if score is not None and before is not None:
        words = Figures(exported.metric, [score, before])
        beside = f"full network {words(before)}{_all_int8(coarse, words)}{_interval(exported)}"
        cards.append(Card(words.known.label, words(score), _difference(exported), beside))
    for name in ("latency_ms", "macs", "parameters", "size_mib"):
        value, whole, now = chosen.get(name), full.get(name), today.get(name)
        if value is None or whole is None:
            continue
        words = Figures(name, [value, whole])
        beside = f"full network {words(whole)}"
        if int8.get(name) != whole:
            beside += _all_int8(int8.get(name), words)
        if is_latency(name) and now is not None and now != whole:
            beside += f", today {words(now)}"
        share = value / whole if whole > 0 else None
        cards.append(Card(words.known.label, words(value), words.change(value, whole), beside, share))
    return tuple(cards)


def _all_int8(value: Value, words: Figures) -> str:
    return "" if value is None else f", all in INT8 {words(value)}"


def _difference(exported: Exported) -> str:
    return "" if exported.points is None else f"{points(exported.points)} points"


def _interval(exported: Exported) -> str:
    low, high = exported.interval
    return "" if low is None or high is None else f"; 95 % interval {points(low)} to {points(high)}"
