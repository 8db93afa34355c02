"""Random search: the baseline that every other search has to beat."""

from collections.abc import Sequence
from typing import Unpack

from nas.searching.evaluation import Evaluate, Objective, Staged
from nas.searching.study import Recipe, Running, Study, searching
from nas.seeds import generator
from search_spaces.space import Space


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
    with searching(
        space,
        evaluate,
        objectives,
        Recipe("random_search", None, seed, lag),
        budget=budget,
        **running,
    ) as (study, run):
        while run.remaining:
            rng = generator(seed, "random search", run.proposed)
            run.propose(space.random(min(run.remaining, running.get("patience") or 100), rng), rng)
    return study
