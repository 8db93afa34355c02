"""Random search: the baseline that every other search has to beat."""

from collections.abc import Sequence

from nas.searching.evaluation import Evaluate, Measurement, Objective, OnResult, Staged
from nas.searching.parallel import Workers
from nas.searching.storage import Storage
from nas.searching.study import Recipe, Study, searching
from nas.seeds import generator
from search_spaces.space import Space


def random_search(
    space: Space,
    evaluate: Evaluate | Staged,
    objectives: Sequence[Objective],
    *,
    budget: int,
    seed: int,
    storage: Storage | None = None,
    chunk_size: int = 1,
    lag: int = 1,
    on_result: OnResult | None = None,
    workers: int | Workers = 1,
    timeout_s: float | None = None,
    patience: int | None = None,
    known: Sequence[Measurement] = (),
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
        workers=workers,
        timeout_s=timeout_s,
        patience=patience,
        known=known,
    ) as (study, run):
        while run.remaining:
            rng = generator(seed, "random search", run.proposed)
            run.propose(space.random(min(run.remaining, patience or 100), rng), rng)
    return study
