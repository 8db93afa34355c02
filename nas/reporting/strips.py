"""A sub-network at one glance: a strip with a bar for each size of each block, beside the sizes that it has once.

Precisions are no sizes: `nas.reporting.precisions` has them.
"""

from collections import defaultdict
from dataclasses import dataclass

from nas.reporting.words import shortened
from search_spaces.quantization import architecture
from search_spaces.space import Candidate, Choice, Option, Space

_MOST_BARS, _MOST_LANES, _MOST_SINGLES = 64, 4, 4
_STEP, _HEIGHT, _GAP = 9, 18, 5


@dataclass(frozen=True)
class Strips:
    """How the sub-networks of one space are drawn, all in the same way.

    Args:
        lanes: the choices of each kind that repeats over the blocks, e.g. "heads", in the order of the blocks.
        singles: the choices that a network has once, e.g. depth and width.
    """

    lanes: tuple[tuple[str, tuple[Choice, ...]], ...]
    singles: tuple[Choice, ...]

    @classmethod
    def of(cls, space: Space) -> "Strips":
        """Choices are of one kind where their names are alike before the first dot."""
        kinds: dict[str, list[Choice]] = defaultdict(list)
        for choice in architecture(space).choices:
            kinds[choice.kind].append(choice)
        lanes = [(kind, tuple(found[:_MOST_BARS])) for kind, found in kinds.items() if len(found) > 1]
        singles = [found[0] for found in kinds.values() if len(found) == 1]
        return cls(tuple(lanes[:_MOST_LANES]), tuple(singles[:_MOST_SINGLES]))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the lanes, from above."""
        return tuple(kind for kind, _ in self.lanes)

    @property
    def width(self) -> int:
        """Of the drawing."""
        return _STEP * max((len(choices) for _, choices in self.lanes), default=0)

    @property
    def height(self) -> int:
        """Of the drawing."""
        return len(self.lanes) * (_HEIGHT + _GAP) - _GAP

    def said(self, candidate: Candidate) -> tuple[str, ...]:
        """The sizes in words, a line for each kind; a dropped block is a dot."""
        once = [f"{shortened(each.name, 40)} {_option(candidate[each.name])}" for each in self.singles]
        lines = [", ".join(once)] if once else []
        for kind, choices in self.lanes:
            sizes = " ".join(_option(candidate[each.name]) for each in choices)
            lines.append(f"{shortened(kind, 40)} {shortened(sizes, 200)}")
        return tuple(lines)

    def background(self) -> str:
        """The path of the full sizes, which is the same for all sub-networks."""
        return self._path({choice.name: 1.0 for _, choices in self.lanes for choice in choices})

    def bars(self, candidate: Candidate) -> str:
        """The path of the sizes of one sub-network, relative to the largest; dropped blocks have no bar."""
        shares = {
            choice.name: _share(choice, option)
            for _, choices in self.lanes
            for choice in choices
            if (option := candidate[choice.name]) is not None
        }
        return self._path(shares)

    def _path(self, shares: dict[str, float]) -> str:
        parts = []
        for number, (_, choices) in enumerate(self.lanes):
            foot = number * (_HEIGHT + _GAP) + _HEIGHT
            for place, choice in enumerate(choices):
                if choice.name in shares:
                    tall = max(1.0, _HEIGHT * shares[choice.name])
                    parts.append(f"M{place * _STEP + _STEP // 2} {foot}v-{tall:.3g}")
        return "".join(parts)


def _option(option: Option | None) -> str:
    return "·" if option is None else shortened(f"{option:g}" if isinstance(option, float) else str(option), 24)


def _share(choice: Choice, option: Option) -> float:
    """Of the largest size; of what is no number, the place among the options."""
    most = choice.options[-1]
    if choice.ordered and isinstance(option, (int, float)) and isinstance(most, (int, float)) and most > 0:
        return min(1.0, max(0.0, option / most))
    return (choice.index(option) + 1) / len(choice.options)
