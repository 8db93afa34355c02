"""Two processes on one computer (gloo) train as one with the same global batch, and stop together.

The module is a program too: each of the two processes runs every case and writes what it found to a file of its own.
"""

import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Forked
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nas.data.split import Split
from nas.learning.instatune import InstaTuneConfig, instatune
from nas.learning.sampling import Pareto
from nas.learning.training import LossOf, Step, TrainingConfig, TrainingFailed, fine_tune, fit, plain_loss
from search_spaces import Candidate, Supernet
from tests import toy_blocks, toy_images, toy_tags, toy_task

pytestmark = pytest.mark.slow
Found = dict[str, Tensor]
RANK = int(os.environ.get("RANK", "0"))


def gradients(module: nn.Module, train: Split, loss_of: LossOf, **settings: object) -> Found:
    """Gradients and loss of one step over all rows; in the main process, as on_step is told there alone."""
    found: Found = {}

    def on_step(step: Step) -> None:
        found.update({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})

    config = TrainingConfig(steps=1, batch_size=len(train), clip_norm=1e9, device="cpu", **settings)
    history = fit(module, train, loss_of, config, on_step=on_step)
    return found | {"loss": torch.tensor(history.steps[0].loss)}


def instatune_loss(supernet: Supernet, train: Split) -> LossOf:
    """The largest sub-network and a random one in one call, the first teaching the second."""

    def loss_of(forward: Callable, batch: dict[str, Tensor], targets: Tensor, step: int) -> Tensor:
        candidates = [supernet.space.largest(), supernet.space.sample(np.random.default_rng(step))]
        full, sub = (output.logits for output in forward(candidates, **batch))
        return train.task.loss(full, targets) + train.task.distillation(sub, full, targets, 5.0)

    return loss_of


def supernet_gradients(accumulate: int = 1) -> Found:
    supernet, train = toy_task.supernet(dropout=0.0), toy_task.split(9)
    return gradients(supernet, train, instatune_loss(supernet, train), accumulate=accumulate)


def tag_gradients() -> Found:
    train = toy_tags.split((1, 2, 3, 7, 5))
    return gradients(toy_tags.network(), train, plain_loss(train), accumulate=2)


def fewer_rows_than_processes() -> Found:
    train = toy_task.split(1)
    return gradients(toy_task.bert(dropout=0.0), train, plain_loss(train))


def instatuned() -> Found:
    supernet = toy_task.supernet(dropout=0.0)
    instatune(supernet, toy_task.split(43), InstaTuneConfig(steps=8, batch_size=9, device="cpu"))
    return toy_task.weights(supernet.model)


def distilled(folder: Path | None = None) -> Found:
    """By a strong teacher and its hidden states, which are cached in a folder or not."""
    supernet = toy_task.supernet(dropout=0.0)
    config = InstaTuneConfig(steps=8, batch_size=9, device="cpu", distillation="high-cost", hidden_weight=10.0)
    instatune(supernet, toy_task.split(43), config, teacher=toy_task.bert(seed=1), kept=folder)
    return toy_task.weights(supernet.model)


def pareto() -> Found:
    """What is drawn and observed when the draws follow from the losses of all processes."""
    supernet, drawn, seen = toy_blocks.two_stacks(norm=False), [], []
    observe = Pareto.observe

    def spy(self: Pareto, step: int, candidates: Sequence[Candidate], losses: Sequence[float]) -> None:
        drawn.extend(self.space.encode(candidates).tolist())
        seen.extend(losses)
        observe(self, step, candidates, losses)

    config = InstaTuneConfig(steps=14, batch_size=9, samples=8, sampling="pareto", accumulate=2, device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pareto, "observe", spy)
        instatune(supernet, toy_blocks.its_own_rows(supernet.model), config)
    return {"drawn": torch.tensor(drawn), "seen": torch.tensor(seen, dtype=torch.float64)}


def batch_norms(sub_networks: bool = True) -> Found:
    """The running statistics after some steps that learn nothing."""
    supernet, train = toy_images.supernet(), toy_images.split(16)

    def loss_of(forward: Callable, batch: dict[str, Tensor], targets: Tensor, step: int) -> Tensor:
        candidates = [supernet.space.largest(), *[supernet.space.smallest()] * sub_networks]
        return sum(train.task.loss(logits, targets) for logits in forward(candidates, **batch))

    fit(supernet, train, loss_of, TrainingConfig(steps=3, batch_size=8, learning_rate=1e-9, device="cpu"))
    return {name: buffer.clone() for name, buffer in supernet.model.named_buffers()}


def early_stop() -> Found:
    module, seen = toy_images.network(), []
    values = iter([0.3, 0.9, 0.2, 0.1, 0.0])

    def validate(step: int) -> float:
        seen.append(step)
        return next(values)

    config = TrainingConfig(steps=9, batch_size=8, patience=2, evaluate_every=1, device="cpu")
    history = fine_tune(module, toy_images.split(), config, validate=validate)
    told = {"steps": torch.tensor(len(history.steps)), "asked": torch.tensor(seen)}
    return told | {"evaluations": torch.tensor(history.evaluations)} | toy_task.weights(module)


def divergence(folder: Path) -> Found:
    """The loss of the last process alone is bad, in the second part of its rows."""
    module, train, calls = toy_images.network(), toy_images.split(), []

    def loss_of(forward: Callable, batch: dict[str, Tensor], targets: Tensor, step: int) -> Tensor:
        calls.append(step)
        bad = float("inf") if step == 3 and RANK == 1 and calls.count(3) == 2 else 0.0
        return plain_loss(train)(forward, batch, targets, step) + bad

    settings = {"batch_size": 8, "accumulate": 2, "mixed_precision": "bf16", "checkpoint_every_s": 1e9}
    try:
        fit(module, train, loss_of, TrainingConfig(steps=9, device="cpu", **settings), checkpoint=folder)
    except TrainingFailed as error:
        assert "step 3 of 9" in str(error)
        return {"calls": torch.tensor(calls)} | toy_task.weights(module)
    raise AssertionError("the run must fail")


def resumed(folder: Path, kill: int) -> Found:
    """A run that every process leaves after some steps, and goes on with."""
    config = TrainingConfig(
        steps=6, batch_size=8, checkpoint_every_s=0, device="cpu", augment=True, patience=9, evaluate_every=2
    )
    for _ in range(1 + bool(kill)):
        module, train, calls = toy_images.network(), toy_images.split(), []

        def loss_of(
            forward: Callable,
            batch: dict[str, Tensor],
            targets: Tensor,
            step: int,
            *,
            train: Split = train,
            calls: list[int] = calls,
        ) -> Tensor:
            calls.append(step)
            if step == kill and calls != [kill]:
                raise KeyboardInterrupt
            return plain_loss(train)(forward, batch, targets, step)

        try:
            fit(module, train, loss_of, config, checkpoint=folder, validate=lambda step: -abs(step - 2))
        except KeyboardInterrupt:
            continue
    assert not kill or calls[0] == kill
    return toy_task.weights(module)


def cases(folder: Path) -> dict[str, Callable[[], Found]]:
    return {
        "gradients": supernet_gradients,
        "accumulated": lambda: supernet_gradients(accumulate=2),
        "tags": tag_gradients,
        "few": fewer_rows_than_processes,
        "instatuned": instatuned,
        "distilled": distilled,
        "distilled from disk": lambda: distilled(folder / "outputs"),
        "pareto": pareto,
        "norms": batch_norms,
        "norms alone": lambda: batch_norms(sub_networks=False),
        "early stop": early_stop,
        "divergence": lambda: divergence(folder / "divergence"),
        "whole": lambda: resumed(folder / "whole", 0),
        "resumed": lambda: resumed(folder / "resumed", 4),
    }


def main(folder: Path) -> None:
    for name, case in cases(folder).items():
        save_file({key: value.clone() for key, value in case().items()}, folder / f"{name}.{RANK}")
    # Together: one that just exits can abort while the other still closes its connections.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes left what they found."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    running = [_start(rank, folder, os.environ | shared) for rank in range(2)]
    try:
        ended = [process.finish(300) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.status for process in ended] == [0, 0], "\n".join(process.err[-4000:] for process in ended)
    return folder


def _start(rank: int, folder: Path, environment: Mapping[str, str]) -> Forked:
    """One of the two processes."""
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parent.parent
    return Forked(["-m", "tests.test_processes", str(folder)], cwd=root, env={**environment, **own})


def found(folder: Path, name: str) -> tuple[Found, Found]:
    """What each of the two processes found."""
    return load_file(folder / f"{name}.0"), load_file(folder / f"{name}.1")


@pytest.mark.parametrize("name", ["gradients", "accumulated", "tags", "few"])
def test_gradients_and_loss_are_those_of_one_process(folder: Path, name: str) -> None:
    main, other = found(folder, name)
    alone = cases(folder)[name]()
    assert len(alone) > 3
    torch.testing.assert_close(main, alone, rtol=1e-5, atol=1e-6)
    assert torch.equal(other["loss"], main["loss"])


def test_a_whole_run_ends_as_that_of_one_process(folder: Path) -> None:
    main, other = found(folder, "instatuned")
    assert toy_task.same(main, other)
    torch.testing.assert_close(main, instatuned(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["distilled", "distilled from disk"])
def test_hidden_states_teach_alike(folder: Path, name: str) -> None:
    main, other = found(folder, name)
    assert toy_task.same(main, other)
    # On disk the outputs are in bfloat16, and Adam makes full steps of gradients that are nearly 0.
    torch.testing.assert_close(main, distilled(), rtol=1e-3, atol=1e-4 if name == "distilled" else 1e-3)


def test_processes_draw_alike_where_draws_follow_from_losses(folder: Path) -> None:
    main, other = found(folder, "pareto")
    assert toy_task.same(main, other)
    alone = pareto()
    assert len(alone["drawn"]) == 14 * 2 * 8
    before_the_fit = 4 * 2 * 8
    assert torch.equal(main["drawn"][:before_the_fit], alone["drawn"][:before_the_fit])
    assert torch.isfinite(main["seen"]).all()
    assert main["seen"].unique().numel() > 10


def test_sub_networks_leave_the_running_statistics_alone(folder: Path) -> None:
    main, other = found(folder, "norms")
    assert any("running_mean" in name and tensor.abs().max() > 0 for name, tensor in main.items())
    assert toy_task.same(main, other)
    torch.testing.assert_close(main, found(folder, "norms alone")[0], rtol=1e-5, atol=1e-6)


def test_both_stop_early_with_the_same_weights(folder: Path) -> None:
    main, other = found(folder, "early stop")
    assert main.pop("asked").tolist() == [1, 2, 3, 4]
    assert other.pop("asked").tolist() == [], "the main process evaluates"
    assert int(main["steps"]) == 4
    assert toy_task.same(main, other)


def test_both_stop_when_the_loss_of_one_diverges(folder: Path) -> None:
    main, other = found(folder, "divergence")
    assert main["calls"].tolist() == other["calls"].tolist() == [1, 1, 2, 2, 3, 3]
    parameters = dict(toy_images.network().named_parameters())
    assert all(torch.equal(main[name], other[name]) for name in parameters)
    state = load_file(folder / "divergence" / "state.safetensors")
    assert all(torch.equal(state[f"parameter.{name}"], main[name]) for name in parameters)
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    assert float(state["buffer.blocks.0.norm.num_batches_tracked"]) == 4


def test_two_processes_resume_bit_by_bit(folder: Path) -> None:
    whole, resumed = found(folder, "whole"), found(folder, "resumed")
    assert toy_task.same(*whole)
    assert toy_task.same(whole[0], resumed[0])
    assert toy_task.same(whole[1], resumed[1])
