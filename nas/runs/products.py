"""What a run may hold of networks, and what follows from that for the commands that read it: one entry a product.

`nas.runs.readers` says which functions report and export a product.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nas.data.split import Split
from nas.networks.networks import Networks
from nas.networks.recalibration import SubNetworks
from nas.pruning.networks import PrunedNetworks
from nas.pruning.stages import base_errors, searches_of
from nas.reporting.page import Section
from nas.reporting.sub_networks import sub_network_sections
from nas.runs.folder import RunFolder, Unfinished
from nas.runs.makers import MAKERS, Product
from nas.searching.kept import KeptFiles
from search_spaces import Supernet

Calibration = Callable[[], Split | None]
"""Reads the training rows that batch norms are measured on; None where there are no batch norms."""


@dataclass(frozen=True)
class Meaning:
    """How the networks of a run are found, and what is said of them.

    Args:
        networks: from the folder, its super-network and what reads the rows for batch norms.
        unfinished: what is said where the networks are not there yet, with {folder} for the path of the run.
        title: of the card of one of them, before the name of the model.
        origin: the card's sentence on where one comes from, with {model} for the name of the model.
        plural: what they are called in titles.
        begun_by: what the request in run.json is of, as a heading.
        sections: of the report, on how the networks were found.
        chooses_full: whether the full network is one of them, and so may be chosen; else they are compared with it.
        unlimited: what is said of a choice without limits; empty where there is nothing to say.
    """

    networks: Callable[[RunFolder, Supernet, Calibration], Networks]
    unfinished: str
    title: str
    origin: str
    plural: str
    begun_by: str
    sections: Callable[[RunFolder], tuple[Section, ...]]
    chooses_full: bool = True
    unlimited: str = ""


def _sub_networks(folder: RunFolder, supernet: Supernet, calibration: Calibration) -> Networks:
    return SubNetworks(supernet, calibration())


def _pruned(folder: RunFolder, supernet: Supernet, calibration: Calibration) -> Networks:
    return PrunedNetworks(supernet, KeptFiles(folder.pruned))


PRODUCTS: Mapping[Product, Meaning] = {
    "super-network": Meaning(
        networks=_sub_networks,
        unfinished="the fine-tuning in {folder} is not finished",
        title="A sub-network of",
        origin="It was cut out of `{model}`, fine-tuned as a super-network.",
        plural="Sub-networks",
        begun_by="Fine-tuning",
        sections=lambda folder: (),
    ),
    "pruned-networks": Meaning(
        networks=_pruned,
        unfinished="the pruning in {folder} has hardly begun",
        title="A pruned",
        origin="It is `{model}` with fewer channels, found by EMO-PMS and fine-tuned with the original as its teacher.",
        plural="Pruned networks",
        begun_by="Pruning",
        sections=lambda folder: sub_network_sections(searches_of(folder.pruning), base_errors(folder.pruning)),
        chooses_full=False,
        unlimited="Without a limit the most accurate of the pruned networks is chosen, never the original: a limit "
        "such as --max-macs, or `nas export --candidate`, takes another one",
    ),
}


def check_finished(folder: RunFolder, product: Product) -> None:
    """Unfinished where the networks of a run of that product are not there yet."""
    if not folder.supernet.exists():
        raise Unfinished(PRODUCTS[product].unfinished.format(folder=folder.path), MAKERS[product].go_on)
