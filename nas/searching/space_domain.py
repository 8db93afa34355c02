"""A `Space` as the domain of a search."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self, cast

import numpy as np

from nas.errors import UserError
from nas.searching.domain import C, Domain, Genes
from nas.searching.enumeration import every_row
from nas.searching.evolution import VectorGenome, row_keys
from search_spaces.arrays import IntArray
from search_spaces.space import Candidate, Option, Space


@dataclass(frozen=True)
class SpaceDomain:
    """The candidates of a space, encoded as the indices of their options (n, k).

    The parameters of a candidate are its choices. A study of it is written as by earlier versions, which knew no
    other domain.

    Args:
        space: the space.
    """

    space: Space
    parameters_suffice: ClassVar[bool] = True

    def sample(self, n: int, rng: np.random.Generator) -> IntArray:
        """Draw `n` candidates with uniform choices."""
        return self.space.random(n, rng)

    def mutate(self, genes: Genes, rng: np.random.Generator) -> IntArray:
        """Change one choice of each candidate, on average, and at least one; see `VectorGenome`."""
        return self._genome.mutate(genes, rng)

    @cached_property
    def _genome(self) -> VectorGenome:
        return VectorGenome(self.space, 1 / max(1, len(self.space.choices)))

    def keys(self, genes: Genes) -> list[Hashable]:
        """The bytes of each canonical row."""
        return row_keys(genes)

    def canonical(self, genes: Genes) -> IntArray:
        """The rows with inactive choices set to 0; raises ValueError for indices out of range."""
        return self.space.canonical(genes)

    def encode(self, candidates: Iterable[Candidate]) -> IntArray:
        """Encode candidates (n, k); raises ValueError for one that is not of this space."""
        return self.space.encode(candidates)

    def decode(self, genes: Genes) -> list[Candidate]:
        """The candidates of rows (n, k)."""
        return self.space.decode(genes)

    def size(self) -> int:
        """The number of candidates; raises ValueError for a space that lacks a choice."""
        return self.space.size()

    def every(self) -> IntArray:
        """All candidates (size, k)."""
        return every_row(self.space)

    def identity(self) -> str:
        """The space as JSON text."""
        return self.space.to_json()

    @classmethod
    def from_identity(cls, identity: Any) -> Self:
        """The space that `identity` wrote; raises ValueError for other data."""
        if not isinstance(identity, str):
            raise ValueError("its candidates are not those of a space")
        return cls(Space.from_json(identity))

    def to_json(self, candidate: Candidate) -> dict[str, Option | None]:
        """The option of every choice, None where it is inactive."""
        return dict(candidate)

    def from_json(self, data: Any) -> Candidate:
        """The candidate of a mapping, in which inactive choices may be missing; raises ValueError for other data."""
        if not isinstance(data, Mapping):
            raise ValueError(f"a candidate must be the options by the names of the choices, got {type(data).__name__}")
        return self.space.candidate(data)

    def parameters(self, candidate: Candidate) -> Mapping[str, Option | None]:
        """The choices."""
        return candidate

    def options(self, name: str) -> Sequence[Option]:
        """The options of a choice."""
        return self.space[name].options


def as_domain(candidates: Space | Domain[C]) -> Domain[C]:
    """The domain of what a search is given: a space, or a domain itself."""
    if isinstance(candidates, Space):
        # A space has candidates of the type `Candidate`, which is what `C` is then.
        return cast(Domain[C], SpaceDomain(candidates))
    return candidates


def space_of(domain: Domain[C]) -> Space:
    """The space of a domain; raises UserError where there is none."""
    if not isinstance(domain, SpaceDomain):
        raise UserError(f"the candidates must be those of a space, they are of {type(domain).__name__}")
    return domain.space
