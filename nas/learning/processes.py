"""Several training processes, devices and trackers; the only module that imports `accelerate`."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.errors import UserError
from nas.sentences import one_of

_MAKING = threading.Lock()
"""The state that all accelerators of a process share is filled by the first; no other thread may see half of it."""


def make_accelerator(trackers: Sequence[str] = (), tracking: Path | None = None) -> Any:
    """Make the `accelerate.Accelerator` of a training run.

    Precision and device are not passed to it: all accelerators of a process share their state, and one process may run
    several trainings with different settings, also at the same time in threads.

    Args:
        trackers: names of trackers known to `accelerate`.
        tracking: folder for trackers that write files.

    Raises:
        UserError: a tracker is unknown or not installed, or needs a folder and none is given.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    check_trackers(trackers, tracking)
    # A backbone may have parameters that the head does not use (a pooler); data-parallel training refuses them without
    # this option.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    options: dict[str, Any] = {"log_with": list(trackers)} if trackers else {}
    if tracking is not None:
        options["project_dir"] = str(tracking)
    with _MAKING:
        return Accelerator(mixed_precision="no", kwargs_handlers=handlers, **options)


def check_trackers(trackers: Sequence[str], tracking: Path | None) -> None:
    """Raise UserError where a tracker is unknown or not installed, or needs a folder and none is given."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    missing = {str(name) for name in LoggerType} - {str(name) for name in get_available_trackers()}
    known = sorted(str(name) for name in LOGGER_TYPE_TO_CLASS)
    for name in trackers:
        if name not in known:
            raise UserError(f"a tracker must be {one_of(known, name)}")
        if name in missing:
            package = name.replace("_", "-")
            raise UserError(f"the tracker {name} needs a package that is not installed; run: pip install {package}")
        if LOGGER_TYPE_TO_CLASS[name].requires_logging_directory and tracking is None:
            raise UserError(f"the tracker {name} writes files; name a folder for them (tracking)")


def start_trackers(accelerator: Any, settings: Mapping[str, Any]) -> None:
    """Start the trackers with the settings of the run as its hyper-parameters."""
    plain = {
        name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in settings.items()
    }
    accelerator.init_trackers("supersieve", config=plain)


def stop_trackers(accelerator: Any) -> None:
    """Let the trackers write what they have buffered."""
    # `Accelerator.end_training` would also destroy the process group, which later trainings of this process need.
    for tracker in accelerator.trackers:
        tracker.finish()


def mean_over_processes(accelerator: Any, value: Tensor) -> Tensor:
    """Mean of a tensor over all processes."""
    return accelerator.reduce(value, "mean") if accelerator.num_processes > 1 else value


def of_main_process(accelerator: Any, value: float) -> float:
    """Broadcast a number from the main process to all processes."""
    if accelerator.num_processes == 1:
        return value
    from accelerate.utils import broadcast

    return float(broadcast(torch.tensor(value, dtype=torch.float64, device=accelerator.device)))


@torch.no_grad()
def share(accelerator: Any, tensors: Sequence[Tensor]) -> None:
    """Overwrite tensors in all processes with those of the main process."""
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast

        for tensor in tensors:
            tensor.copy_(broadcast(tensor.clone()))
