"""What a run may hold, and the command that makes it: one entry a product.

`nas.runs.products` says what follows where that is networks, `nas.runs.readers` which functions read it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Product = Literal["super-network", "pruned-networks", "evolved-layers"]
"""What a run holds."""


@dataclass(frozen=True)
class Maker:
    """The command that makes a product, in the words of sentences.

    Args:
        command: as it is called.
        no_search: what is said where a search is not there, with {folder} for the path of the run.
    """

    command: str
    no_search: str

    @property
    def go_on(self) -> str:
        """What to do where the product is not finished."""
        return f"repeat the {self.command} command to go on"


MAKERS: Mapping[Product, Maker] = {
    "super-network": Maker(command="`nas finetune`", no_search="`nas search {folder}` makes one"),
    "pruned-networks": Maker(
        command="`nas prune`", no_search="repeat the `nas prune` command to go on with the pruning"
    ),
    "evolved-layers": Maker(command="`nas evolve`", no_search="an evolution of layers has no searches"),
}
