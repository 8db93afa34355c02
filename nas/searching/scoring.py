"""What scores the individuals of an evolution that are measured, not predicted."""

import numpy as np

from nas.searching.domain import C, Genes
from nas.searching.evaluation import Evaluations
from nas.searching.evolution import Population, Score


def measured(run: Evaluations[C], rng: np.random.Generator, *, one_by_one: bool = False) -> Score:
    """A `Score` that proposes individuals and returns those whose results became visible since the last call.

    With a lag, the results of a generation arrive while the next one is bred. Known results come with the first call.

    Args:
        run: of a search.
        rng: draws a new candidate where all that are proposed exist already.
        one_by_one: propose each individual by itself, so that it sees, by its number, all results that the lag allows.
    """
    shown = 0

    def score(genes: Genes) -> Population:
        nonlocal shown
        for part in np.split(genes, len(genes)) if one_by_one and len(genes) else [genes]:
            if run.remaining:
                run.propose(part, rng)
        seen = run.results()
        new, shown = slice(shown, len(seen)), len(seen)
        return Population.of(seen.rows[new], seen.values[new], seen.violations[new])

    return score
