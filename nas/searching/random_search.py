"""Random search: the baseline that every other search has to beat."""

from collections.abc import Sequence
from itertools import count
from typing import Unpack

from nas.searching.measurement import Evaluate, Objective, Staged
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
    lag: int = 1,
    **running: Unpack[Running],
) -> Study:
    """Measure `budget` distinct random candidates; arguments and errors as in `nas.linas`."""
    # Smaller steps where patience is asked for between them; the candidates and their order are the same.
    step = min(_BATCH, running.get("patience") or _BATCH)
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
