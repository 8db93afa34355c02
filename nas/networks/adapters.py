"""Checkpoints that PEFT leaves behind: which weights of them a plain network takes.

PEFT trains a head as a copy beside the one of the checkpoint and saves both, under `modules_to_save.<adapter>` and
`original_module`. The trained one is that of the network.
"""

from collections.abc import Iterable
from pathlib import Path

from nas.errors import UserError

TRAINED_HEADS = {r"^base_model\.model\.": "", r"\.modules_to_save\.[^.]+\.": "."}
"""Renames the weights of a checkpoint to those of the network: a pattern of a name -> what takes its place."""
_ADAPTERS = (".lora_", ".base_layer.", ".modules_to_save.")


def refuse_adapters(unused: Iterable[str], name: str) -> None:
    """UserError where weights of an adapter were left unused: the network without them is another one.

    Args:
        unused: names of the weights of the checkpoint that the network has no place for.
        name: of the model, for the message.
    """
    left = next((key for key in sorted(unused) if any(part in f".{key}" for part in _ADAPTERS)), None)
    if left is not None:
        raise UserError(
            f"the weights of {name} must be those of a whole network, {left} is that of an adapter: merge it first, "
            "with merge_and_unload of peft"
        )


def refuse_adapter_folder(folder: Path) -> None:
    """UserError for a folder that holds an adapter and not the network that it changes."""
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise UserError(
            f"the model folder {folder} holds an adapter alone: merge it into its network first, with "
            "merge_and_unload of peft, and save that"
        )
