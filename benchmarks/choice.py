"""Does the choice hold on new rows? Candidates of two searches, chosen on half of the rows, scored on the other.

Two runs are made from `--data FOLDER`: MiniLM on sentences of SST-2, and ResNet-20 on CIFAR-10. Each is searched for
accuracy and multiply-accumulates, and all measured candidates are scored on all validation and test rows together.
Then, for each of many random splits of these rows into halves and for each limit on the multiply-accumulates, one
candidate is chosen on one half as `nas export` chooses, and by the share of right rows alone; the other half says how
good the choices are.

- optimism: what the choice promises, less its accuracy on the new rows, in points;
- regret: the best accuracy on the new rows within the limit, less that of the choice, in points.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import Figures, Harness, parser
from runs_of_data import OWN, images, texts

from nas.data.accuracy import predict
from nas.runs.finetune import finetune_run
from nas.runs.folder import RunFolder
from nas.runs.loaded_search import load_search
from nas.runs.loading import LoadedRun, load_run
from nas.runs.requests import FinetuneRequest, SearchRequest
from nas.runs.search import search_run
from nas.searching.estimation import Others, estimated
from nas.searching.measurement import Measurement
from nas.searching.objectives import objective
from nas.searching.rescoring import rivals
from nas.settings import SearchSettings, TrainingSettings
from search_spaces import Candidate
from search_spaces.arrays import BoolArray, FloatArray

TARGETS = {"optimism_points": "at most 0.2", "regret_over_hits_points": "at most 0.05"}
SHARES, SPLITS, BUDGET, SEED = (0.5, 0.6, 0.7), 200, 60, 0
OBJECTIVES = ("accuracy", "macs")
TEXTS = {"train": ("train", 0, 6000), "validation": ("dev", 0, 872), "test": ("test", 0, 1821)}
IMAGES = {"train": ("train20k", 0, 6000), "validation": ("test", 0, 1500), "test": ("test", 1500, 3000)}
RUNS: dict[str, tuple[Callable[[Path, Path], FinetuneRequest], str | None]] = {
    "text": (
        lambda data, folder: texts(
            data, folder, TEXTS, TrainingSettings(steps=250, learning_rate=1e-4, freeze_embeddings=True)
        ),
        None,
    ),
    "image": (
        lambda data, folder: images(
            data, folder, IMAGES, TrainingSettings(steps=250, learning_rate=2e-3, augment=True)
        ),
        OWN,
    ),
}


def scored(data: Path, folder: Path, kind: str) -> dict[str, Any]:
    """Fine-tune, search and score every measured candidate on all rows: hits as hexadecimal digits, and costs."""
    make, model = RUNS[kind]
    request = make(data, folder / kind)
    finetune_run(request)
    settings = SearchSettings(objectives=",".join(OBJECTIVES), budget=BUDGET)
    search_run(SearchRequest(request.out, settings, model=model))
    loaded = load_run(RunFolder(request.out), "cpu", model)
    study = load_search(loaded.folder, settings.name).study
    measured = [m for m in study.measurements if m.state == "measured"]
    hits = [_hits(loaded, each) for each in measured]
    full = study.find(study.space.full())
    assert full is not None, "a search measures the full network"
    return {
        "hits": [np.packbits(each).tobytes().hex() for each in hits],
        "rows": len(hits[0]),
        "macs": [m.values["macs"] for m in measured],
        "full_macs": full.values["macs"],
    }


def _hits(loaded: LoadedRun, member: Measurement) -> BoolArray:
    """Which of the validation and test rows a candidate has right."""
    forward, found = loaded.networks().forward(member.candidate), []
    for name in ("validation", "test"):
        rows = loaded.split(name)
        right = rows.task.correct(predict(forward, rows), rows)
        assert right is not None, "classes are right or wrong"
        found.append(right)
    return np.concatenate(found)


def judged(result: Mapping[str, Any]) -> dict[str, float]:
    """Optimism and regret in points, as means over splits and limits."""
    rows, macs = int(result["rows"]), np.array(result["macs"], dtype=np.float64)
    packed = [np.frombuffer(bytes.fromhex(each), dtype=np.uint8) for each in result["hits"]]
    hits = np.array([np.unpackbits(each, count=rows) for each in packed]).astype(np.bool_)
    rng = np.random.default_rng(SEED)
    found: dict[str, list[tuple[float, float]]] = {"estimate": [], "hits": []}
    for _ in range(SPLITS):
        order = rng.permutation(rows)
        here, new = hits[:, order[: rows // 2]], 100 * hits[:, order[rows // 2 :]].mean(axis=1)
        for name, promised in (("estimate", _estimates(here, macs)), ("hits", 100 * here.mean(axis=1))):
            for share in SHARES:
                allowed = np.flatnonzero((macs <= share * result["full_macs"]) & np.isfinite(promised))
                if len(allowed):
                    chosen = allowed[np.argmax(promised[allowed])]
                    best = new[macs <= share * result["full_macs"]].max()
                    found[name].append((promised[chosen] - new[chosen], best - new[chosen]))
    means = {name: np.mean(each, axis=0) for name, each in found.items()}
    return {
        "optimism": float(means["estimate"][0]),
        "regret": float(means["estimate"][1]),
        "optimism_of_hits": float(means["hits"][0]),
        "regret_of_hits": float(means["hits"][1]),
    }


def _estimates(hits: BoolArray, macs: FloatArray) -> FloatArray:
    """Estimated accuracies in points, of the front and its rivals; NaN of the others, which are not scored again."""
    accuracies = hits.mean(axis=1)
    objectives = [objective(name) for name in OBJECTIVES]
    members = [_member(index, *values) for index, values in enumerate(zip(accuracies, macs, strict=True))]
    better = (macs[None] <= macs[:, None]) & (accuracies[None] >= accuracies[:, None])
    strictly = (macs[None] < macs[:, None]) | (accuracies[None] > accuracies[:, None])
    front = np.flatnonzero(~(better & strictly).any(axis=1))
    near = [int(member.seconds) for member in rivals(members, objectives, hits.shape[1])]
    scored_again = np.array(sorted({*front.tolist(), *near}))
    rest = np.setdiff1d(np.arange(len(hits)), scored_again)
    others = Others(accuracies[rest], macs[rest, None], hits.shape[1])
    found = estimated(hits[scored_again], macs[scored_again, None], others)[: len(scored_again)]
    promised = np.full(len(hits), np.nan)
    promised[scored_again] = [100 * each.value for each in found]
    return promised


def _member(index: int, accuracy: float, cost: float) -> Measurement:
    """A candidate as `rivals` reads it: only its values count, and `seconds` says which it is."""
    values = dict(zip(OBJECTIVES, (float(accuracy), float(cost)), strict=True))
    return Measurement(Candidate({"number": index}), values, "measured", None, float(index))


def main() -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--data", type=Path, required=True, help="folder of SST-2, CIFAR-10 and ResNet-20's weights")
    options = flags.parse_args()
    harness, folder = Harness(options), (options.out or Path("choice")) / "runs"
    figures: Figures = {}
    for kind in RUNS:
        result = harness.stage(f"{kind}-scored", partial(scored, options.data, folder, kind), budget=BUDGET)
        found = judged(result)
        figures |= {f"{kind}_{name}": value for name, value in found.items()}
    kinds = list(RUNS)
    figures["optimism_points"] = max(abs(figures[f"{kind}_optimism"]) for kind in kinds)
    figures["regret_over_hits_points"] = max(
        figures[f"{kind}_regret"] - figures[f"{kind}_regret_of_hits"] for kind in kinds
    )
    harness.report(figures, TARGETS, [SEED])


if __name__ == "__main__":
    main()
