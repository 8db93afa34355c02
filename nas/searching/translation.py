"""Translate encoded candidates between a space and one derived from it; what does not fit is a user's mistake."""

from collections.abc import Callable

from nas.errors import UserError
from search_spaces import translation as spaces
from search_spaces.arrays import IntArray
from search_spaces.space import Space


def translation(source: Space, target: Space) -> Callable[[IntArray], IntArray]:
    """`search_spaces.translation.translation` that leaves nothing out.

    Raises:
        UserError: the spaces do not have the same choices, or `source` has an option that `target` lacks.
    """
    try:
        return spaces.translation(source, target)
    except ValueError as error:
        raise UserError(str(error)) from error
