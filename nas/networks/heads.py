"""Put the outputs of a trained classifier in the order of the data's classes, by their names."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from nas.errors import UserError
from nas.sentences import listed

_FEW = 5
"""Names that a sentence shows at most."""


def order_head(
    module: nn.Module,
    body: str,
    made_new: Iterable[str],
    names: Sequence[str],
    classes: Sequence[str],
    source: str,
    say: Callable[[str], None] | None = None,
) -> None:
    """Reorder the rows of a trained head where it has the data's classes in another order.

    Names are compared ignoring case. A head for other classes is a beginning as good as any, and stays as it is.

    Args:
        module: a classifier whose head has `len(classes)` outputs.
        body: prefix of the names of all layers below the head.
        made_new: names of the weights that the checkpoint lacks; a head among them has no order.
        names: the names of the outputs that the checkpoint was trained for, in their order.
        classes: the classes of the data.
        source: the name of the model, for sentences.
        say: called with a sentence when rows are reordered, or when the names are others.

    Raises:
        UserError: the outputs have another order, and the layer that makes them is not known.
    """
    theirs, ours = [name.lower() for name in names], [name.lower() for name in classes]
    trained, wanted = listed(names, _FEW), listed(classes, _FEW)
    heads = _heads(module, body, len(classes))
    new = set(made_new)
    if theirs == ours or len(theirs) != len(ours) or any(f"{name}.weight" in new for name in heads):
        return
    if sorted(theirs) != sorted(ours) or len(set(ours)) != len(ours):
        if say and not all(_is_default(name) for name in theirs):
            say(f"The head of {source}, trained for {trained}, begins with its weights for {wanted}")
        return
    if not heads:
        raise UserError(
            f"the outputs of {source} must be in the order of the data's classes, {wanted}, they are "
            f"{trained}, and its head is no linear layer whose rows could be put in order"
        )
    order = torch.tensor([theirs.index(name) for name in ours])
    with torch.no_grad():
        for head in heads.values():
            for parameter in (head.weight, head.bias):
                if isinstance(parameter, Tensor):
                    parameter.copy_(parameter[order])
    if say:
        say(f"The outputs of {source} are put in the order of the data's classes: {wanted}")


def _heads(module: nn.Module, body: str, outputs: int) -> dict[str, nn.Linear]:
    """The last linear layer with so many outputs, and its like in a second head, which DeiT and LeViT have."""
    linears = {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and part.out_features == outputs and not name.startswith(body)
    }
    last = next(reversed(linears), "")
    inner = last.partition(".")[2]
    return {
        name: part
        for name, part in linears.items()
        if name.partition(".")[2] == inner and part.in_features == linears[last].in_features
    }


def _is_default(name: str) -> bool:
    return name.removeprefix("label_").isdigit()
