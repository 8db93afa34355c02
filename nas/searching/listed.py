"""A search that measures the candidates of a list, in their order, and proposes no others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Unpack

from nas.errors import UserError
from nas.searching.domain import C, Domain
from nas.searching.identity import SearchIdentity
from nas.searching.measurement import Evaluate, Objective, Staged, WithContext
from nas.searching.pace import lag_of, recorded_identity
from nas.searching.space_domain import as_domain
from nas.searching.study import Running, Study, searching
from nas.seeds import generator
from search_spaces.space import Space


@dataclass(frozen=True)
class Listed(Generic[C]):
    """An algorithm whose candidates were chosen beforehand; a longer list goes on with the study of a shorter one.

    Args:
        candidates: distinct ones; those that the study has already come first, in its order.
    """

    candidates: tuple[C, ...]

    def __call__(
        self,
        space: Space | Domain[C],
        evaluate: Evaluate[C] | WithContext[C] | Staged[C],
        objectives: Sequence[Objective],
        *,
        budget: int,
        seed: int,
        **running: Unpack[Running[C]],
    ) -> Study[C]:
        """Measure them; arguments, result and errors as for `nas.linas`.

        Raises:
            UserError: the budget is not the length of the list.
        """
        if budget != len(self.candidates):
            raise UserError(f"the budget must be the {len(self.candidates)} candidates of the list, got {budget}")
        storage = running.get("storage")
        lag = lag_of(running.get("lag"), storage, recorded_identity(storage), new=1)
        domain = as_domain(space)
        identity = SearchIdentity("listed", None, seed, lag)
        with searching(domain, evaluate, objectives, identity, budget=budget, **running) as (study, run):
            if run.remaining:
                run.propose(domain.encode(self.candidates), generator(seed, "listed"))
        return study
