"""Cuts a network into sub-networks whose channels can be pruned independently of each other.

This is the structure of EMO-PMS (arXiv 2303.16212): layers at one spatial resolution form a sub-network, and pruning
one of them leaves the shapes at its borders as they are. Differs: the paper names what is encoded by the type of block
(the first convolution of a basic block, the first two of a bottleneck, all but the last of a group of VGG); here it
is whatever can be cut inside of a sub-network, found in its graph and checked by running it. For the ResNets of CIFAR
this is the same; the stem of a ResNet-50 and the residual streams inside a sub-network of MobileNetV2 may be cut too.
VGG-16 has five groups of convolutions at five resolutions, so five sub-networks, and a sixth if its classifier has
hidden layers; the paper counts four and does not say which.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from search_spaces.evaluating import evaluating
from search_spaces.families.dimensions import check_finite, pass_together
from search_spaces.families.oracle import Judge
from search_spaces.families.structure import NotElastic
from search_spaces.inputs import Inputs, default_inputs, split_inputs
from search_spaces.pruning.choices import Wanted, choices
from search_spaces.pruning.module_graph import ModuleGraph, module_graph
from search_spaces.pruning.parts import Part, follow_mode, part
from search_spaces.pruning.splitting import Section, sections
from search_spaces.pruning.training import writes_into_its_input
from search_spaces.space import Choice, Space


@dataclass(frozen=True)
class SubNetwork:
    """Consecutive layers of a network.

    Attributes:
        name: its position as a word, from "0".
        module: runs these layers alone: takes the features before them by position and returns those behind them, both
            with the batch as axis 0, of any size; all other axes are as for the example inputs. Its layers, parameters
            and buffers are those of the model, not copies, with the same qualified names. So training it trains the
            model, and `train()` and `eval()` change the modes of the model's own layers.
        space: its choices, `channels.<module path>`; it fits the module as well as the model.
    """

    name: str
    module: nn.Module
    space: Space


@dataclass(frozen=True)
class Partition:
    """A network as a sequence of sub-networks and a head.

    Attributes:
        model: the whole network; it is not changed.
        subnetworks: at least one, in the order of execution. Each takes what the one before it returns.
        head: from the features behind the last sub-network to the logits, such as global pooling and the classifier.
            It has no choices. An identity where the last sub-network ends with the logits.
    """

    model: nn.Module
    subnetworks: tuple[SubNetwork, ...]
    head: nn.Module

    @property
    def space(self) -> Space:
        """The choices of all sub-networks, for `Supernet(model, space)`."""
        return Space(tuple(choice for each in self.subnetworks for choice in each.space.choices))

    def boundaries(self, inputs: Inputs) -> tuple[torch.Tensor, ...]:
        """Run the network once.

        Args:
            inputs: its one tensor, as a tuple or a mapping, of any batch.

        Returns:
            The features behind each sub-network, then the logits. They are those of the model in its current mode, with
            gradients unless these are turned off.

        Raises:
            ValueError: there is not exactly one tensor.
        """
        x, found = only_tensor(inputs), []
        for module in (*(each.module for each in self.subnetworks), self.head):
            follow_mode(module, self.model)
            x = module(x)
            found.append(x)
        return tuple(found)


def only_tensor(inputs: Inputs) -> torch.Tensor:
    """The tensor of inputs that are one; raises ValueError for others."""
    args, kwargs = split_inputs(inputs)
    tensors: list[torch.Tensor] = [*args, *kwargs.values()]
    if len(tensors) != 1:
        came = ", ".join(kwargs) if kwargs else f"{len(args)} by position" if args else "none"
        raise ValueError(f"inputs of a network that is cut into sub-networks must be one tensor, got {came}")
    return tensors[0]


def partition(
    model: nn.Module, example_inputs: Inputs | None = None, *, keep: Sequence[str] = (), multiple_of: int = 1
) -> Partition:
    """Cut a network where its spatial resolution changes, and find the channels that can be pruned in each part.

    A part begins with the module that changes the resolution, as a stage of a ResNet with its first block, an inverted
    residual of MobileNetV2, or a pooling layer. What has no channels to prune, as the stem of many networks, joins the
    part behind it. A network whose resolution does not change is one sub-network.

    Args:
        model: a trained network of any class that takes one tensor and returns logits: a tensor, a mapping with
            `logits`, or an output with one tensor of floats. It is left as it is.
        example_inputs: a tuple of one tensor or a mapping with its keyword, batch above 1; None: derived from the
            configuration of a transformers model. The images must be so large that all resolutions differ.
        keep: patterns (`fnmatch`) of paths of modules whose output channels are not pruned, as `layer1.*`.
        multiple_of: channels are pruned to multiples of this number; the full number is always an option. Of a grouped
            convolution whole groups are pruned, and it counts these.

    Raises:
        NotElastic: there is nothing to prune.
        ValueError: example inputs are missing or are several tensors, the model cannot be traced (the message names the
            line of its code), it returns several tensors, or it computes something else while training than its layers
            say; weights are not finite; `keep` matches nothing, or `multiple_of` is below 1.
    """
    wanted = Wanted(model, tuple(keep), multiple_of)
    check_finite(model)
    inputs = default_inputs(model) if example_inputs is None else example_inputs
    only_tensor(inputs)
    pieces = _Pieces(model, inputs, module_graph(model, inputs))
    refused: set[str] = set()
    while True:
        found, rest = pieces.joined(wanted, refused)
        if not found:
            raise NotElastic(
                f"{type(model).__name__} must have channels that can be pruned inside of it"
                f"{', beside those of keep' if keep else ''}: none was found that gives the right output when cut"
            )
        everything = tuple(choice for _, _, each in found for choice in each)
        # Each part is right alone; the model's own forward may still hard-code what its graph does not.
        right = pass_together(Judge(model, inputs), everything)
        if len(right) == len(everything):
            break
        refused |= {choice.name for choice in everything} - {choice.name for choice in right}
    parts = tuple(SubNetwork(str(number), module, Space(each)) for number, (_, module, each) in enumerate(found))
    return Partition(model, parts, nn.Identity() if rest is None else rest)


class _Pieces:
    """The sections of a network between changes of resolution, with example features.

    Args:
        model: the network.
        inputs: its example inputs.
        made: its graph.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, made: ModuleGraph) -> None:
        self._model, self._made = model, made
        self._sections = sections(made)
        alone = [part(model, made, each) for each in self._sections]
        self._writing = writes_into_its_input(model, alone, inputs)
        self._features = [only_tensor(inputs)]
        with torch.no_grad(), evaluating(model):
            for module in alone:
                self._features.append(module.eval()(self._features[-1].clone()))
        self._tensors = [{id(tensor) for tensor in (*each.parameters(), *each.buffers())} for each in alone]

    def joined(
        self, wanted: Wanted, refused: set[str]
    ) -> tuple[list[tuple[Section, Part, tuple[Choice, ...]]], Part | None]:
        """The sub-networks with choices, and what is left behind them; sections without choices join the next."""
        found, first = [], 0
        for last in range(len(self._sections)):
            section, module = self._part(first, last)
            others = set().union(*self._tensors[:first], *self._tensors[last + 1 :])
            made = choices(module, self._features[first], wanted, shared=others, refused=refused)
            if made:
                found.append((section, module, made))
                first = last + 1
        rest = self._part(first, len(self._sections) - 1)[1] if first < len(self._sections) else None
        return found, rest

    def _part(self, first: int, last: int) -> tuple[Section, Part]:
        section = self._sections[first]
        for each in self._sections[first + 1 : last + 1]:
            section = section.then(each)
        return section, part(self._model, self._made, section, own_input=self._writing[first])
