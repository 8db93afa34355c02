"""The order of the features between the blocks of a teacher, put alike to that of the network that it teaches."""

from collections.abc import Mapping

from torch import Tensor, nn

from nas.errors import UserError
from search_spaces import Space, Supernet


def between_blocks(teacher: nn.Module, space: Space) -> Supernet:
    """A teacher with the choices of the features between the blocks alone.

    Args:
        teacher: it is not copied.
        space: of the sub-networks that it teaches.

    Raises:
        UserError: there are such choices, and the teacher has not the features that they choose from.
    """
    choices = tuple(choice for choice in space.choices if choice.kind == "width")
    try:
        return Supernet(teacher, Space(choices))
    except ValueError as error:
        raise UserError(
            f"hidden_weight needs a teacher with the network's own features between the blocks: {error}"
        ) from error


def order_alike(teacher: nn.Module, space: Space, orders: Mapping[str, Tensor]) -> None:
    """Put the features that a teacher passes between its blocks into the order of the network's; its outputs stay.

    Args:
        teacher: changed in place.
        space: of the network's sub-networks.
        orders: how the units of its choices were ordered (`Supernet.reorder`).

    Raises:
        UserError: as of `between_blocks`.
    """
    supernet = between_blocks(teacher, space)
    supernet.reorder({choice.name: orders[choice.name] for choice in supernet.space.choices if choice.name in orders})
