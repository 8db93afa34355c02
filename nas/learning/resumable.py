"""State beside the weights that changes while a network is trained, and goes on with its checkpoint."""

from typing import Any, Protocol

from nas.errors import UserError


class Resumable(Protocol):
    """An object whose state a loss or a validation changes between steps, and which is saved with the checkpoint."""

    def state(self) -> dict[str, Any]:
        """The current state as a new dictionary of JSON values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Set the state to one that `state` returned."""


def restore_state(memory: Resumable, state: dict[str, Any]) -> None:
    """Set the state to that of a checkpoint; UserError where its JSON is damaged, although its tensors are whole."""
    try:
        memory.restore(state)
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the checkpoint is damaged ({str(error)[:200]}); remove it to start anew") from error
