"""How far a search proposes ahead of its results: decided when a study begins, recorded in it, and kept from then on.

A result that a proposal does not see costs quality, and a worker that waits for a proposal costs time. With one worker
nothing waits, so every proposal sees all results, and predictors are fitted anew after a few of them. Several workers
measure a batch while the next one is chosen.

The pace belongs to the study and not to the process: a study that was begun with eight workers goes on with their pace
on one, so it is the same study whatever measures it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas.errors import UserError
from nas.searching.storage import read_identity
from nas.searching.storage_address import Storage, shown
from nas.workers import Workers


@dataclass(frozen=True)
class Pace:
    """Lag and sizes of the batches; the defaults are those for several workers.

    Args:
        lag: proposal i depends on results 0 .. i - lag only. With one more than `least_batch`, as many workers as
            `least_batch` measure a batch while the next one is chosen.
        first_batch: number of candidates that are measured before anything is learned from them.
        least_batch, most_batch, growth: a later batch holds `growth` times the number of candidates proposed so far,
            within the bounds `least_batch` and `most_batch`.

    Raises:
        UserError: a number is below 1, the bounds are in the wrong order, or growth is negative.
    """

    lag: int = 9
    first_batch: int = 24
    least_batch: int = 8
    most_batch: int = 24
    growth: float = 0.1

    def __post_init__(self) -> None:
        for name in ("lag", "first_batch", "least_batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.most_batch < self.least_batch:
            raise UserError(f"most_batch must be at least least_batch {self.least_batch}, got {self.most_batch}")
        if not 0 <= self.growth < float("inf"):
            raise UserError(f"growth must be a number that is not negative, got {self.growth}")

    @classmethod
    def of(cls, lag: int) -> "Pace":
        """The sizes that go with a lag: small ones where every proposal sees all results."""
        return cls(lag=1, first_batch=12, least_batch=2, growth=0.06) if lag == 1 else cls(lag=lag)

    def batch(self, proposed: int) -> int:
        """Size of the batch after `proposed` candidates.

        Batches grow with the search, since fitting takes longer and each new result changes the predictors less. They
        are multiples of the smallest batch, so that as many workers all have work.
        """
        grown = round(self.growth * proposed) // self.least_batch * self.least_batch
        return min(self.most_batch, max(self.least_batch, grown))


def lag_for(workers: int | Workers) -> int:
    """The lag of a new study that so many workers measure."""
    count = workers if isinstance(workers, int) else workers.count
    return 1 if count == 1 else Pace.lag


def recorded_identity(storage: Storage | None) -> Mapping[str, Any]:
    """What decides the study at a storage, as recorded there; empty where none has begun."""
    return {} if storage is None else read_identity(storage) or {}


def lag_of(given: int | None, storage: Storage | None, recorded: Mapping[str, Any], new: int) -> int:
    """The lag of a study.

    Args:
        given: what the user asks for; None: no wish.
        storage: where the study is, for the message.
        recorded: its identity, empty where it has not begun.
        new: the lag of a new study without a wish.

    Raises:
        UserError: the study was begun with another lag than the one that is given.
    """
    before = recorded.get("lag")
    if type(before) is not int or before < 1:
        return new if given is None else given
    if storage is not None and given not in (None, before):
        raise UserError(
            f"the study at {shown(storage)} was begun with another lag ({before}, here {given}); leave the lag out, or "
            "begin another study"
        )
    return before
