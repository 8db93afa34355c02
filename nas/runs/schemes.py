"""Which pruned networks a command wants, and the schemes that give them: by rates, or by limits."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nas.errors import UserError
from nas.number_lists import number_list
from nas.objectives import LATENCY
from nas.pruning.emo_pms import OutOfReach, Pruned
from nas.pruning.impairment import Scheme
from nas.runs.requests import PruneRequest

_RATES = (0.3, 0.5, 0.7)
_LIMITS = ("max_macs", "max_parameters", "max_latency_ms")


@dataclass(frozen=True)
class Wanted:
    """A pruned network that is asked for.

    Args:
        name: as it is shown, e.g. "parameters -50 %".
        quantity: `parameters`, `macs` or `latency_ms`.
        rate: share that is pruned at least; None: there is a limit.
        limit: the most of the quantity; None: there is a rate.
    """

    name: str
    quantity: str
    rate: float | None = None
    limit: float | None = None


def wanted_of(request: PruneRequest) -> tuple[Wanted, ...]:
    """The networks that a request asks for; UserError for a rate outside of 0..1, or a limit on something else."""
    limits, settings = request.limits.checked(), request.settings
    other = [name for name in limits if name not in _LIMITS]
    if other:
        known = ", ".join(f"--{name.replace('_', '-')}" for name in _LIMITS)
        raise UserError(f"a pruning has the limits {known}; give --{other[0].replace('_', '-')} to `nas export`")
    rates = _rates(settings.rates) if settings.rates is not None else () if limits else _RATES
    for name, value in limits.items():
        if not 0 < value < math.inf:
            raise UserError(f"--{name.replace('_', '-')} must be above 0 and finite, got {value:g}")
    if "max_latency_ms" in limits and settings.ranking != "reciprocal":
        raise UserError(
            f"--ranking {settings.ranking} ranks by what is counted, and a latency is measured; leave it out"
        )
    found = [Wanted(f"{settings.cost} -{100 * rate:g} %", settings.cost, rate=rate) for rate in rates]
    for name, value in limits.items():
        quantity = name.removeprefix("max_")
        found.append(Wanted(f"{quantity} <= {value:g}", quantity, limit=value))
    return tuple(found)


def _rates(text: str) -> tuple[float, ...]:
    wanted = "shares above 0 and below 1, separated by commas, e.g. 0.3,0.5,0.7"
    return tuple(dict.fromkeys(number_list("rates", text, wanted, lambda rates: 0 < min(rates) <= max(rates) < 1)))


def chosen_schemes(
    pruned: Pruned, wanted: Sequence[Wanted], ranking: str, latency_of: Callable[[Scheme], float]
) -> list[tuple[Wanted, Scheme]]:
    """The scheme of each network that is wanted.

    Args:
        pruned: the fronts of the sub-networks.
        wanted: the networks.
        ranking: `reciprocal` or `literal` for the order of the schemes, `best` for the best combination.
        latency_of: measures the latency of a scheme in milliseconds.

    Raises:
        UserError: a rate or a limit is out of reach; the message says what can be reached.
    """
    return [(each, _scheme(pruned, each, ranking, latency_of)) for each in wanted]


def _scheme(pruned: Pruned, wanted: Wanted, ranking: str, latency_of: Callable[[Scheme], float]) -> Scheme:
    original: Scheme = dict.fromkeys(pruned.bases)
    name, most = wanted.quantity, wanted.limit
    if most is None:
        assert wanted.rate is not None
        # A hair more, so that the rounding of the product does not decide.
        most = (1 - wanted.rate) * pruned.cost(original, name) * (1 + 1e-12)
    try:
        if name == LATENCY:
            return pruned.first_below(most, latency_of)
        if ranking == "best":
            return pruned.best_within(most, name)
        return pruned.first_within(most, name, "literal" if ranking == "literal" else "reciprocal")
    except OutOfReach as error:
        reach = ""
        if wanted.rate is not None:
            share = math.floor(1000 * (1 - error.least / pruned.cost(original, name))) / 1000
            reach = f", so rates of up to {share:g} are possible"
        raise UserError(
            f"{wanted.name} is out of reach of the searched sub-networks: at least {error.least:.6g} of {name} "
            f"stay{reach}"
        ) from None
