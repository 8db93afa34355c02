"""What a search needs of its candidates: a domain.

A domain is a set of candidates that can be drawn, mutated, told apart, written and read. The engine knows nothing else
of them. `SpaceDomain` makes a `Space` one, and `ObjectDomain` is the base of those whose candidates are objects, such
as graphs.

The engine holds candidates encoded, as numpy arrays whose first axis counts them: integers (n, k) for a space, objects
(n,) for anything else. So the searches that need integers have them, and nothing is encoded anew for each proposal.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, Self

import numpy as np
import numpy.typing as npt
from typing_extensions import TypeVar

from search_spaces.space import Candidate, Option

C = TypeVar("C", default=Candidate)
"""The type of the candidates of a search: those of a `Space` where nothing else is said."""

Genes = npt.NDArray[Any]
"""n encoded candidates, (n, ...)."""


class Domain(Protocol[C]):
    """A set of candidates, which are immutable and hashable.

    Every method that makes candidates returns their canonical form. Equal candidates have equal keys, and others have
    unequal ones, unless a domain takes them for one on purpose: a search measures only one candidate of each key. Draws
    depend on the generator alone.
    """

    @property
    def parameters_suffice(self) -> bool:
        """Whether `from_json` reads a candidate from its parameters, so that a study stores nothing else of it."""

    def sample(self, n: int, rng: np.random.Generator) -> Genes:
        """Draw `n` random candidates, which may repeat."""

    def mutate(self, genes: Genes, rng: np.random.Generator) -> Genes:
        """Make one mutant of each candidate."""

    def keys(self, genes: Genes) -> list[Hashable]:
        """A key of each candidate."""

    def canonical(self, genes: Genes) -> Genes:
        """The canonical form of each candidate; raises ValueError for one that is not of this domain."""

    def encode(self, candidates: Iterable[C]) -> Genes:
        """Encode any number of candidates; raises ValueError for one that is not of this domain."""

    def decode(self, genes: Genes) -> list[C]:
        """The candidates that are encoded."""

    def size(self) -> int | None:
        """How many candidates there are; None where that is not counted. Raises ValueError for no proper domain."""

    def every(self) -> Genes:
        """All candidates, each once; called only where they are counted and few."""

    def identity(self) -> Any:
        """The domain as JSON data: a study goes on in an equal one only."""

    @classmethod
    def from_identity(cls, identity: Any) -> Self:
        """The domain that `identity` describes; raises ValueError for other data."""

    def to_json(self, candidate: C) -> Any:
        """A candidate as JSON data."""

    def from_json(self, data: Any) -> C:
        """The candidate that `to_json` wrote; raises ValueError or TypeError for other data."""

    def parameters(self, candidate: C) -> Mapping[str, Option | None]:
        """What tables and Optuna show of a candidate; a parameter that does not matter in it is None or missing."""

    def options(self, name: str) -> Sequence[Option]:
        """All that a parameter may be, the same in every candidate; a `range` is shown as integers in their order."""


def objects(items: Iterable[Any]) -> Genes:
    """An array (n,) of any objects, which numpy does not look into."""
    listed = list(items)
    return np.fromiter(listed, dtype=object, count=len(listed))


class ObjectDomain(ABC, Generic[C]):
    """A domain of objects; a subclass says what concerns one of them."""

    parameters_suffice: ClassVar[bool] = False

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> C:
        """Draw one random candidate."""

    @abstractmethod
    def mutant(self, candidate: C, rng: np.random.Generator) -> C:
        """Make a mutant of one candidate."""

    @abstractmethod
    def key(self, candidate: C) -> Hashable:
        """The key of a canonical candidate."""

    @abstractmethod
    def identity(self) -> Any:
        """See `Domain.identity`."""

    @classmethod
    @abstractmethod
    def from_identity(cls, identity: Any) -> Self:
        """See `Domain.from_identity`."""

    @abstractmethod
    def to_json(self, candidate: C) -> Any:
        """See `Domain.to_json`."""

    @abstractmethod
    def from_json(self, data: Any) -> C:
        """See `Domain.from_json`; the candidate must be canonical."""

    def canonical_form(self, candidate: C) -> C:
        """The canonical form of any candidate: by default each is canonical as it is made."""
        return candidate

    def size(self) -> int | None:
        """How many candidates there are: by default that is not counted."""
        return None

    def every(self) -> Genes:
        """See `Domain.every`; a subclass that counts its candidates has it."""
        raise ValueError(f"the candidates of {type(self).__name__} are not counted")

    def parameters(self, candidate: C) -> Mapping[str, Option | None]:
        """See `Domain.parameters`: by default nothing is shown."""
        return {}

    def options(self, name: str) -> Sequence[Option]:
        """See `Domain.options`."""
        raise KeyError(name)

    def sample(self, n: int, rng: np.random.Generator) -> Genes:
        """Draw `n` random candidates, (n,)."""
        return self.encode([self.draw(rng) for _ in range(n)])

    def mutate(self, genes: Genes, rng: np.random.Generator) -> Genes:
        """One mutant of each candidate, (n,)."""
        return self.encode([self.mutant(candidate, rng) for candidate in genes])

    def keys(self, genes: Genes) -> list[Hashable]:
        """The key of each candidate."""
        return [self.key(candidate) for candidate in genes]

    def canonical(self, genes: Genes) -> Genes:
        """The canonical form of each candidate, (n,)."""
        return self.encode(genes)

    def encode(self, candidates: Iterable[C]) -> Genes:
        """The canonical candidates in an array, (n,)."""
        return objects(map(self.canonical_form, candidates))

    def decode(self, genes: Genes) -> list[C]:
        """The candidates of an array (n,)."""
        return list(genes)
