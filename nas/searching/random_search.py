"""Random search: the baseline that every other search has to beat."""

from collections.abc import Sequence
from pathlib import Path

from nas.searching.evaluation import Evaluate, Objective, OnResult
from nas.searching.study import Recipe, Study, searching
from nas.seeds import generator
from search_spaces.space import Space


def random_search(
    space: Space,
    evaluate: Evaluate,
    objectives: Sequence[Objective],
    *,
    budget: int,
    seed: int,
    storage: Path | None = None,
    chunk_size: int = 1,
    lag: int = 1,
    on_result: OnResult | None = None,
) -> Study:
    """Measure `budget` distinct random candidates; arguments and errors as in `nas.linas.linas`."""
    with searching(
        space,
        evaluate,
        objectives,
        Recipe("random_search", None, seed, lag),
        budget=budget,
        storage=storage,
        chunk_size=chunk_size,
        on_result=on_result,
    ) as (study, run):
        while run.remaining:
            rng = generator(seed, "random search", run.proposed)
            run.propose(space.random(min(run.remaining, 100), rng), rng)
    return study
