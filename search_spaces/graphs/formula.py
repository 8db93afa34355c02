"""The text of a graph, as one would write the layer on paper."""

from collections import Counter
from collections.abc import Sequence

from search_spaces.graphs.operations import INDEX_SETS, INITIAL, MOMENTS, Node

_LEAVES = tuple("0" if name == "zero" else name for name in INITIAL)
_SUM, _PRODUCT, _POWER, _ATOM = range(4)
_Text = tuple[str, int]


def formula(nodes: Sequence[Node]) -> str:
    """The formula of the last of `nodes`, e.g. `x / max(std_{b,w,h}(x), v1 * x + std_{w,h}(x))`.

    Nodes that are used several times are named first: `a = v1 * x; a * sigmoid(a)`. So the text is never longer than
    the graph, however often a node is used.

    Args:
        nodes: those of a graph without dead nodes, without the initial ones.
    """
    uses = Counter(index for node in nodes for index in node.inputs)
    texts: list[_Text] = [(leaf, _ATOM) for leaf in _LEAVES]
    named: list[str] = []
    for index, node in enumerate(nodes, len(_LEAVES)):
        text = _text(node, texts)
        if uses[index] > 1:
            name = _name(len(named))
            named.append(f"{name} = {text[0]}")
            text = name, _ATOM
        texts.append(text)
    return "; ".join([*named, texts[-1][0]])


def _name(count: int) -> str:
    """a .. t, then a1 .. t1 and so on: never x, v0 or v1."""
    letter = "abcdefghijklmnopqrst"[count % 20]
    return letter + (str(count // 20) if count >= 20 else "")


def _text(node: Node, texts: Sequence[_Text]) -> _Text:
    parts = [texts[index] for index in node.inputs]
    if node.op == "add":
        return _sum(node, texts)
    if node.op == "mul":
        return f"{_inside(parts[0], _PRODUCT)} * {_inside(parts[1], _POWER)}", _PRODUCT
    if node.op == "div":
        return f"{_inside(parts[0], _PRODUCT)} / {_inside(parts[1], _POWER)}", _PRODUCT
    if node.op == "neg":
        return f"-{_inside(parts[0], _PRODUCT)}", _SUM
    if node.op == "square":
        return f"{_inside(parts[0], _ATOM)}^2", _POWER
    name = f"{node.op}_{{{INDEX_SETS[str(node.over)]}}}" if node.op in MOMENTS else node.op
    return f"{name}({', '.join(text for text, _ in parts)})", _ATOM


def _sum(node: Node, texts: Sequence[_Text]) -> _Text:
    """a + b, or a - b where one of both is the negative of something."""
    first, second = sorted(node.inputs, key=lambda index: texts[index][0].startswith("-"))
    left, (right, level) = texts[first], texts[second]
    if right.startswith("-"):
        return f"{left[0]} - {right[1:]}", _SUM
    return f"{left[0]} + {_inside((right, level), _SUM)}", _SUM


def _inside(text: _Text, least: int) -> str:
    return text[0] if text[1] >= least else f"({text[0]})"
