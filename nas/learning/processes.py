"""The home of `accelerate`: devices, processes that train together, and trackers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.errors import UserError


def make_accelerator(trackers: Sequence[str] = (), tracking: Path | None = None) -> Any:
    """Processes, devices and trackers.

    Precision and device are never given to it: its state is shared by all runs of this process, which may differ.

    Args:
        trackers: names that accelerate knows.
        tracking: folder for those that write files.

    Raises:
        UserError: a tracker is unknown or not installed, or there is no folder for it.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    _check_trackers(trackers, tracking)
    # A backbone may have parameters that its head does not use, which plain data-parallel training refuses.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    asked: dict[str, Any] = {"log_with": list(trackers)} if trackers else {}
    return Accelerator(
        mixed_precision="no", kwargs_handlers=handlers, project_dir=None if tracking is None else str(tracking), **asked
    )


def _check_trackers(trackers: Sequence[str], tracking: Path | None) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    missing = {str(name) for name in LoggerType} - {str(name) for name in get_available_trackers()}
    known = sorted(str(name) for name in LOGGER_TYPE_TO_CLASS)
    for name in trackers:
        if name not in known:
            raise UserError(f"a tracker must be one of {', '.join(known)}, got {name!r}")
        if name in missing:
            package = name.replace("_", "-")
            raise UserError(f"the tracker {name} needs a package that is not installed; run: pip install {package}")
        if LOGGER_TYPE_TO_CLASS[name].requires_logging_directory and tracking is None:
            raise UserError(f"the tracker {name} writes files; name a folder for them (tracking)")


def start_trackers(accelerator: Any, settings: Mapping[str, Any]) -> None:
    """Begin a tracked run that is described by `settings`."""
    plain = {
        name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in settings.items()
    }
    accelerator.init_trackers("supersieve", config=plain)


def stop_trackers(accelerator: Any) -> None:
    """Let the trackers write what they still hold; the processes stay together."""
    for tracker in accelerator.trackers:
        tracker.finish()


def mean_over_processes(accelerator: Any, value: Tensor) -> Tensor:
    """Mean of a tensor over all processes."""
    return accelerator.reduce(value, "mean") if accelerator.num_processes > 1 else value


def of_main_process(accelerator: Any, value: float) -> float:
    """The number that the main process has, in all of them."""
    if accelerator.num_processes == 1:
        return value
    from accelerate.utils import broadcast

    return float(broadcast(torch.tensor(value, dtype=torch.float64, device=accelerator.device)))


@torch.no_grad()
def share(accelerator: Any, tensors: Sequence[Tensor]) -> None:
    """Overwrite tensors with those of the main process."""
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast

        for tensor in tensors:
            tensor.copy_(broadcast(tensor.clone()))
