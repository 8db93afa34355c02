"""Global performance impairment ranking: which pruned sub-networks the whole network takes, and in what order.

Each sub-network has a front of pruned forms. The ranking says how much error each costs for what it keeps, so that the
forms of all sub-networks compare, and every pruning of the whole network is a beginning of one list (EMO-DIR, arXiv
2303.16212v2, equations 10 and 11 and algorithm 1).

Differs: as printed, equation 11 is smallest, zero, for the most pruned form of each sub-network, and algorithm 1 takes
the smallest first: the whole would jump to its most pruned form at once, while the text says that the pruning rate
increases along the order. The reciprocal of the equation has the order that the text describes, and is the default;
`literal` is the equation as it is printed. `docs/emo-pms.md` has a case worked by hand.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nas.errors import UserError
from search_spaces import Candidate

Rule = Literal["reciprocal", "literal"]
_TINY = 1e-3
"""Added to a denominator that is zero for one form of each sub-network, as in equation 11."""


@dataclass(frozen=True)
class Base:
    """A sub-network as it is in the original.

    Args:
        cost: e.g. its number of parameters.
        error: share of validation rows that are wrong through its feature detector.
    """

    cost: float
    error: float


@dataclass(frozen=True)
class Form:
    """A pruned form of one sub-network, on the front of its search.

    Args:
        subnetwork: its name.
        candidate: the channels it keeps.
        cost: in the unit of `Base.cost`.
        error: as in `Base.error`.
    """

    subnetwork: str
    candidate: Candidate
    cost: float
    error: float


Scheme = Mapping[str, Form | None]
"""For every sub-network the form that the whole network takes; None: as it is in the original."""


def impairment(forms: Sequence[Form], bases: Mapping[str, Base], rule: Rule = "reciprocal") -> list[float]:
    """The performance impairment index of each form; smaller is better.

    Args:
        forms: the fronts of all sub-networks, in any order.
        bases: of every sub-network that has forms.
        rule: `literal` for equation 11 as printed.

    Raises:
        UserError: an unknown rule, or a base without cost.
    """
    if rule not in ("reciprocal", "literal"):
        raise UserError(f"the rule of the ranking must be reciprocal or literal, got {rule!r}")
    changes = [_changes(form, bases[form.subnetwork]) for form in forms]
    least = {
        name: [
            min(change[side] for form, change in zip(forms, changes, strict=True) if form.subnetwork == name)
            for side in (0, 1)
        ]
        for name in {form.subnetwork for form in forms}
    }
    found = []
    for form, (cost, error) in zip(forms, changes, strict=True):
        kept, lost = cost - least[form.subnetwork][0], error - least[form.subnetwork][1] + _TINY
        found.append(kept / lost if rule == "literal" else lost / (kept + _TINY))
    return found


def _changes(form: Form, base: Base) -> tuple[float, float]:
    """Relative changes of cost and error (equation 10)."""
    if not base.cost > 0:
        raise UserError(f"sub-network {form.subnetwork} must have a cost above 0, got {base.cost:g}")
    # A detector without a single error would make every change infinite: then the change counts as it is.
    return (form.cost - base.cost) / base.cost, (form.error - base.error) / (base.error or 1.0)


def schemes(
    forms: Sequence[Form], bases: Mapping[str, Base], rule: Rule = "reciprocal"
) -> Iterator[dict[str, Form | None]]:
    """The whole network's schemes along the ranking, beginning with the original (algorithm 1).

    Each step gives one sub-network the next form of the list, in place of the one that it had.
    """
    scheme: dict[str, Form | None] = dict.fromkeys(bases)
    yield dict(scheme)
    index = impairment(forms, bases, rule)
    # Equal indices keep the order of the forms, so that the list is the same whatever sorts it.
    for number in sorted(range(len(forms)), key=lambda number: index[number]):
        scheme[forms[number].subnetwork] = forms[number]
        yield dict(scheme)


def best_combination(forms: Sequence[Form], bases: Mapping[str, Base], most: float) -> dict[str, Form | None]:
    """The scheme whose errors rise least in sum while its costs stay within a budget, exactly (ours).

    The sum is right where the impairments of sub-networks add up; a ranking by ratio may miss the best combination.

    Args:
        forms: the fronts of all sub-networks.
        bases: of every sub-network.
        most: largest sum of the costs of all sub-networks.

    Raises:
        UserError: even the cheapest forms cost more.
    """
    # Combinations of the sub-networks so far, cheapest first, of which each has fewer errors than all cheaper ones.
    best: list[tuple[float, float, dict[str, Form | None]]] = [(0.0, 0.0, {})]
    for name, base in bases.items():
        options: list[tuple[float, float, Form | None]] = [(base.cost, 0.0, None)]
        options += [(form.cost, form.error - base.error, form) for form in forms if form.subnetwork == name]
        joined = [
            (cost + more, rise + further, {**scheme, name: form})
            for cost, rise, scheme in best
            for more, further, form in options
        ]
        best = []
        for each in sorted(joined, key=lambda each: each[:2]):
            if not best or each[1] < best[-1][1]:
                best.append(each)
    within = [scheme for cost, _, scheme in best if cost <= most]
    if not within:
        raise UserError(
            f"the sub-networks must cost at most {most:.6g} together, the most pruned forms cost {best[0][0]:.6g}"
        )
    return within[-1]
