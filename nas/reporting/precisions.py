"""The precisions of a sub-network as one group: which choices they are, and what they come to in words.

A space may have a choice for the precision of each layer, more than a strip or a table could show one by one.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hardware.policy import PrecisionChoices
from nas.records import Scalar
from nas.reporting.words import shortened
from search_spaces.quantization import EMBEDDINGS, FLOATING, FULL, SYMMETRIES, is_precision
from search_spaces.space import Space

BITS = {"int4-weights": 4, "int8-weights": 8, "int8": 8, "bfloat16": 16, "float32": 32}
"""Of each precision that something can be in, from the least memory to the most."""
_PRECISION, _WEIGHTS = "precision.", "weights."

Options = Mapping[str, Scalar]
"""A candidate, or the record of one."""


@dataclass(frozen=True)
class Precisions:
    """The choices of precisions in a space.

    Args:
        layers: paths of the layers with a precision of their own, in the order of the network.
        embeddings: whether the embeddings have one.
    """

    layers: tuple[str, ...]
    embeddings: bool

    @classmethod
    def of(cls, space: Space) -> "Precisions | None":
        """Those of a space; None where it has none."""
        names = [choice.name for choice in space.choices if is_precision(choice.name)]
        layers = [each.removeprefix(_PRECISION) for each in names if each.startswith(_PRECISION) and each != EMBEDDINGS]
        return cls(tuple(layers), EMBEDDINGS in names) if names else None

    def of_layer(self, candidate: Options, path: str) -> str | None:
        """What a layer computes in; None where it is not there."""
        return _computed(candidate, _PRECISION + path)

    def of_embeddings(self, candidate: Options) -> str | None:
        """What the embeddings are in."""
        return _computed(candidate, EMBEDDINGS)

    def of_rest(self, candidate: Options) -> str:
        """What all else computes in."""
        return str(candidate.get(FLOATING) or FULL)

    def asymmetric(self, candidate: Options, path: str) -> bool:
        """Whether the weights of a layer have a zero point."""
        return candidate.get(_WEIGHTS + path) == SYMMETRIES[1]

    def parts(self, candidate: Options) -> tuple[str, str]:
        """In words, first the layers and then all else, e.g. "30 of 38 layers int8" and "rest bfloat16"."""
        there = [path for path in self.layers if candidate.get(_PRECISION + path) is not None]
        rest, embeddings = self.of_rest(candidate), self.of_embeddings(candidate)
        counts = Counter(str(candidate[_PRECISION + path]) for path in there)
        quantized = [each for each in dict.fromkeys([*BITS, *counts]) if counts[each] and each != FULL]
        odd = sum(self.asymmetric(candidate, path) for path in there)
        said = []
        for number, precision in enumerate(quantized):
            of_all = "" if number else f" of {len(there)} layer{'s' if len(there) != 1 else ''}"
            weights = f" ({odd} with asymmetric weights)" if odd and precision == "int8" else ""
            said.append(f"{counts[precision]}{of_all} {shortened(precision, 24)}{weights}")
        tables = [f"embeddings {shortened(embeddings, 24)}"] if embeddings not in (None, rest) else []
        if not said and not tables:
            return f"all in {shortened(rest, 24)}", ""
        others = ", ".join([*tables, f"rest {shortened(rest, 24)}"])
        return (", ".join(said), others) if said else (others, "")

    def said(self, candidate: Options) -> str:
        """In words, e.g. "30 of 38 layers int8, embeddings int8-weights, rest bfloat16"."""
        return ", ".join(part for part in self.parts(candidate) if part)

    def mean_bits(self, candidate: Options) -> float:
        """Over the layers that are there; without such layers, of all else."""
        found = [self.of_layer(candidate, path) for path in self.layers]
        bits = [BITS.get(each, BITS[FULL]) for each in found if each is not None]
        return sum(bits) / len(bits) if bits else float(BITS.get(self.of_rest(candidate), BITS[FULL]))


def precisions_in_words(choices: PrecisionChoices) -> str:
    """In words what a search may choose from."""
    parts = [f"layers {_either(choices.layers)}"]
    parts += [f"embeddings {_either(choices.embeddings)}"] if len(choices.embeddings) > 1 else []
    parts += [f"rest {_either(choices.floating)}"]
    parts += ["weights of convolutions symmetric or asymmetric"] if choices.asymmetric else []
    parts += [f"in floating point stay {', '.join(choices.keep_float)}"] if choices.keep_float else []
    return "; ".join(parts)


def _computed(candidate: Options, name: str) -> str | None:
    """What stays in float32 computes in what all else computes in."""
    option = candidate.get(name)
    if option is None:
        return None
    return str(candidate.get(FLOATING) or FULL) if option == FULL else str(option)


def _either(names: Sequence[str]) -> str:
    return " or ".join(names)
