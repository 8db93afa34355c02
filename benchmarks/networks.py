"""Which families of transformers become super-networks: what of them is elastic, and whether the laws hold.

Thirty networks of as many classes, small and with random weights. Of each a space is made with the usual sizes. Three
candidates (the smallest, a random one, the largest) must give one output in three forms: in the super-network,
extracted, and as the files of an export, opened again by the card's own lines and in ONNX Runtime (which takes longest,
and is left to the smallest without `--full`). A family works where something is elastic and this holds; it is refused
where a sentence says so before any work; all else is broken.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from harness import Figures, Harness, parser
from network_families import FAMILIES, LARGER, Family
from torch import Tensor, nn

from nas.exporting.folder import check_exportable
from nas.exporting.network_files import ExportError
from nas.networks.plain_layers import in_plain_layers
from search_spaces import Candidate, Space, Supernet, space
from search_spaces.families.oracle import difference, masked_forward
from search_spaces.inputs import default_inputs

SEED, NOISE, TOLERANCE = 0, 0.1, 1e-5
TARGETS = {"families_work": "at least 26", "families_refused": "the rest", "families_broken": "0"}
_WORKS, _REFUSED, _BROKEN = "works", "refused", "broken"


def _network(family: Family) -> tuple[nn.Module, dict[str, Tensor]]:
    """A network whose every weight is random, those too that a new one has at zero or one, and its inputs."""
    torch.manual_seed(SEED)
    network = in_plain_layers(family.build()).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=NOISE)
    inputs = default_inputs(network) if family.inputs is None else family.inputs()
    return network, inputs


def _candidates(found: Space) -> Iterator[Candidate]:
    yield found.smallest()
    yield found.sample(np.random.default_rng(SEED))
    yield found.largest()


def _laws(supernet: Supernet, inputs: Mapping[str, Tensor]) -> None:
    """Raise ArithmeticError unless a candidate is its extraction and the full network without what it lacks."""
    with torch.no_grad():
        for candidate in _candidates(supernet.space):
            shared, alone = supernet(candidate, **inputs), supernet.extract(candidate)(**inputs)
            if difference(shared, alone) > TOLERANCE:
                raise ArithmeticError("a candidate is not its extraction")
            if difference(shared, masked_forward(supernet, candidate, dict(inputs))) > TOLERANCE:
                raise ArithmeticError("a candidate is not the full network without its units")


def _outcome(family: Family, full: bool) -> dict[str, Any]:
    """What of a family is elastic, and whether its laws hold: one row of the table; `full` as the flag."""
    network, inputs = _network(family)
    kept: list[str] = []
    try:
        found = space(network, inputs, say=kept.append)
        supernet = Supernet(network, found)
        # What a fine-tuning checks before it begins.
        check_exportable(supernet.extract(found.smallest()), inputs)
    except (ValueError, ExportError) as error:
        return {"outcome": _REFUSED, "elastic": "", "said": str(error)}
    kinds = Counter(choice.kind for choice in found.choices)
    row = {"elastic": ", ".join(f"{kind} {count}" for kind, count in kinds.items()), "said": " ".join(kept)}
    try:
        _laws(supernet, inputs)
        for candidate in list(_candidates(found))[1:]:
            check_exportable(supernet.extract(candidate), inputs, onnx=full)
    except Exception as error:  # what is wrong of a family is a row of the table, whatever it is
        return row | {"outcome": _BROKEN, "said": f"{type(error).__name__}: {error}"}
    return row | {"outcome": _WORKS}


def _row(harness: Harness, name: str, family: Family) -> dict[str, Any]:
    def compute() -> dict[str, Any]:
        try:
            return _outcome(family, harness.options.full)
        except Exception as error:  # a family that fails in any other way is broken, and the others go on
            return {"outcome": _BROKEN, "elastic": "", "said": f"{type(error).__name__}: {error}"}

    return harness.stage(name, compute, seed=SEED, noise=NOISE, full=float(harness.options.full))


def _table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    width = max(map(len, rows))
    elastic = max(len(row["elastic"]) for row in rows.values())
    return "\n".join(
        f"{name:<{width}}  {row['outcome']:<7}  {row['elastic']:<{elastic}}  {row['said']}".rstrip()
        for name, row in rows.items()
    )


def main() -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--only", nargs="+", help="class names; without them all are tried")
    options = flags.parse_args()
    torch.set_num_threads(1)
    harness = Harness(options)
    families = {**FAMILIES, **LARGER} if options.full else FAMILIES
    asked = {name: family for name, family in families.items() if options.only is None or name in options.only}
    rows = {name: _row(harness, name, family) for name, family in asked.items()}
    print(_table(rows) + "\n", file=sys.stderr if options.json else sys.stdout, flush=True)
    counted = Counter(row["outcome"] for row in rows.values())
    figures: Figures = {f"families_{word}": float(counted[outcome]) for word, outcome in _WORDS.items()}
    harness.report(figures, TARGETS, [SEED])


_WORDS = {"work": _WORKS, "refused": _REFUSED, "broken": _BROKEN}


if __name__ == "__main__":
    main()
