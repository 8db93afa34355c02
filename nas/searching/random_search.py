"""Random search, the baseline for the other searches."""

from collections.abc import Sequence
from itertools import count
from typing import Unpack

from nas.searching.measurement import Evaluate, Objective, Staged
from nas.searching.pace import lag_of, recorded_identity
from nas.searching.study import Running, SearchIdentity, Study, searching
from nas.seeds import generator
from search_spaces.space import Space

_BATCH = 100


def random_search(
    space: Space,
    evaluate: Evaluate | Staged,
    objectives: Sequence[Objective],
    *,
    budget: int,
    seed: int,
    **running: Unpack[Running],
) -> Study:
    """Measure `budget` distinct random candidates; arguments, result and errors as for `nas.linas`."""
    # The stop rule is checked between proposals, so with patience fewer candidates are proposed at a time. The
    # candidates and their order stay the same.
    step = min(_BATCH, running.get("patience") or _BATCH)
    storage = running.get("storage")
    lag = lag_of(running.get("lag"), storage, recorded_identity(storage), new=1)
    with searching(
        space,
        evaluate,
        objectives,
        SearchIdentity("random_search", None, seed, lag),
        budget=budget,
        **running,
    ) as (study, run):
        for number in count():
            if not run.remaining:
                break
            rows = space.random(_BATCH, generator(seed, "random search", number))
            for start in range(0, _BATCH, step):
                run.propose(rows[start : start + step], generator(seed, "random search, new", run.proposed))
    return study
