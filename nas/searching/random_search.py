"""Random search, the baseline for the other searches."""

from collections.abc import Sequence
from itertools import count
from typing import Unpack

from nas.searching.domain import C, Domain
from nas.searching.identity import SearchIdentity
from nas.searching.measurement import Evaluate, Objective, Staged, WithContext
from nas.searching.pace import lag_of, recorded_identity
from nas.searching.space_domain import as_domain
from nas.searching.study import Running, Study, searching
from nas.seeds import generator
from search_spaces.space import Space

_BATCH = 100


def random_search(
    space: Space | Domain[C],
    evaluate: Evaluate[C] | WithContext[C] | Staged[C],
    objectives: Sequence[Objective],
    *,
    budget: int,
    seed: int,
    **running: Unpack[Running[C]],
) -> Study[C]:
    """Measure `budget` distinct random candidates of a space or any other domain.

    Arguments, result and errors as for `nas.linas`.
    """
    domain = as_domain(space)
    # The stop rule is checked between proposals, so with patience fewer candidates are proposed at a time. The
    # candidates and their order stay the same.
    step = min(_BATCH, running.get("patience") or _BATCH)
    storage = running.get("storage")
    lag = lag_of(running.get("lag"), storage, recorded_identity(storage), new=1)
    with searching(
        domain,
        evaluate,
        objectives,
        SearchIdentity("random_search", None, seed, lag),
        budget=budget,
        **running,
    ) as (study, run):
        for number in count():
            if not run.remaining:
                break
            rows = domain.sample(_BATCH, generator(seed, "random search", number))
            for start in range(0, _BATCH, step):
                run.propose(rows[start : start + step], generator(seed, "random search, new", run.proposed))
    return study
