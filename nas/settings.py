"""The settings of the commands: frozen values, each field once, from which the command line derives its flags.

A field's docstring is the help of its flag, so it stands on one line and says what None means.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from nas.objectives import check_limits

Runtime = Literal["pytorch", "onnxruntime", "openvino"]
Precision = Literal["float32", "bfloat16", "int8"]


@dataclass(frozen=True)
class Common:
    """Flags of every command."""

    seed: int = 0
    """Seeds every random draw."""
    device: Literal["auto", "cpu"] = "auto"
    """Where the network runs; auto takes a GPU when there is one."""
    config: Path | None = None
    """A JSON or TOML file with values for these flags; those on the command line come first."""
    json: bool = False
    """Print one JSON object on standard output and nothing else."""
    debug: bool = False
    """Show where in the code an error arose."""


@dataclass(frozen=True)
class ModelSettings:
    """What only a network of your own needs, one that is named as module:factory."""

    weights: Path | None = None
    """A .safetensors file with its weights; None: as the factory makes them."""
    image_size: str | None = None
    """Side of the images in pixels, or height,width; None: its attribute image_size."""
    mean: str | None = None
    """Mean of red, green and blue, or of grey, of pixels scaled to 0..1, e.g. 0.49,0.48,0.45; None: 0.5 each."""
    std: str | None = None
    """Their standard deviation; None: 0.5 each."""
    tokenizer: str | None = None
    """Folder or hub name of the tokenizer of its texts."""


@dataclass(frozen=True)
class DataSettings:
    """The data: texts or images with a label each."""

    data: str | None = None
    """A CSV, TSV, Parquet or JSON file, a folder of images or of such files, or the name of a hub data set."""
    text: str | None = None
    """Column of the texts; None: found by its usual names."""
    image: str | None = None
    """Column of the images, or of the names of their files; None: found by its usual names."""
    label: str | None = None
    """Column of the labels; None: found by its usual names."""
    task: Literal["classification", "regression", "token-classification"] = "classification"
    """What the labels are: classes, numbers, or a tag for every word of a list of words."""
    data_config: str | None = None
    """Configuration of a data set that has several, e.g. sst2 of nyu-mll/glue."""
    separator: str | None = None
    """Character between the fields of a CSV file, or the word tab; None: found out where that is certain."""
    encoding: str | None = None
    """Encoding of a CSV or JSON file, e.g. cp1252; None: UTF-8, or UTF-16 and UTF-32 where that is certain."""
    max_tokens: int = 128
    """Texts are cut off here."""


@dataclass(frozen=True)
class SpaceSettings:
    """The sub-networks to choose from; sizes are numbers or, with a decimal point, shares of the full size, or none."""

    depth: str | None = None
    """Numbers of blocks, e.g. 4,5,6; None: what the InstaTune paper has for this family."""
    heads: str | None = None
    """Attention heads of a block, e.g. 0.5,0.75,1.0; None: as depth."""
    ffn: str | None = None
    """Feed-forward features of a block, e.g. 0.25,0.5,1.0; None: as depth."""
    width: str | None = None
    """Features between the blocks; None: all of them, or for conv nets a few shares."""
    channels: str | None = None
    """Inner channels of a conv net's blocks, e.g. 0.5,1.0; None: as depth."""
    drop_order: Literal["last", "spread", "importance"] = "last"
    """Which blocks drop first: the last ones; such that those kept stay evenly spread; those that matter least."""
    order: Literal["taylor", "magnitude", "activation", "none"] = "taylor"
    """By what heads and features are ordered before the fine-tuning, so that narrow sub-networks keep the best."""


@dataclass(frozen=True)
class TrainingSettings:
    """Fine-tuning of a network."""

    epochs: int = 4
    """Passes over the training rows."""
    steps: int | None = None
    """Optimiser steps, instead of epochs."""
    batch_size: int = 32
    """Rows of one step."""
    learning_rate: float = 1e-4
    """Peak of the learning rate; it warms up, then falls to zero, both linearly."""
    weight_decay: float = 0.01
    """Weight decay of AdamW, on matrices only (not on biases and norms)."""
    freeze_embeddings: bool = False
    """Leave the embeddings as they are: faster, and often as good on little data."""
    warmup_share: float = 0.1
    """Part of the steps (0 to 1) in which the learning rate rises."""
    layer_decay: float = 1.0
    """A block learns at the rate of the block above it times this (1: all alike)."""
    label_smoothing: float = 0.0
    """Part of a label's weight (0 to 1) that goes to all classes alike."""
    accumulate: int = 1
    """Parts in which a step's rows are computed one after the other, to save memory (batch norms see the parts)."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """bf16: compute in bfloat16 where that is safe; the weights stay float32."""
    augment: bool = False
    """Mirror and shift images at random."""
    patience: int | None = None
    """Stop after so many evaluations on validation rows without a better one, with the best weights; None: never."""
    evaluate_every: int | None = None
    """Steps between two evaluations; None: once an epoch."""
    trackers: tuple[str, ...] = ()
    """Where the losses are reported to, e.g. tensorboard; may be given several times. Files go into the run."""
    checkpoint_every_s: float = 60.0
    """Seconds between checkpoints; has no influence on the result."""


@dataclass(frozen=True)
class InstaTuneSettings:
    """How the sub-networks of a super-network are trained: each step trains the full network and some of them."""

    samples: int = 1
    """Random sub-networks a step."""
    sampling: Literal["uniform", "sandwich", "pareto"] = "uniform"
    """How they are drawn: all alike; the smallest at every step too; more near the predicted front of loss and cost."""
    distillation: Literal["low-cost", "high-cost", "hybrid"] = "low-cost"
    """Who teaches sub-networks: the full network of the same step; a strong teacher; the teacher, then the other."""
    hidden_weight: float | None = None
    """Weight of a strong teacher's hidden states as a second teacher, 10 to begin with; None: its outputs alone."""
    teacher_gib: float = 8.0
    """At most so much disk, in GiB, for a strong teacher's outputs where rows repeat; with more it runs every step."""


@dataclass(frozen=True)
class SupernetSettings(InstaTuneSettings):
    """Fine-tuning of a super-network: each step trains the full network and some sub-networks."""

    teacher: Path | None = None
    """Folder of the strong teacher, a network fine-tuned on the same labels; None: the model, fine-tuned first."""


@dataclass(frozen=True)
class PruneSettings:
    """Pruning by EMO-PMS: the sub-networks of the network are searched each by itself, then whole networks follow."""

    rates: str | None = None
    """Shares of the cost of the whole network to prune at least, a network each, e.g. 0.3,0.5,0.7; None: these."""
    cost: Literal["parameters", "macs"] = "parameters"
    """What is pruned and what the rates are of."""
    budget: int = 180
    """Forms of each sub-network that are trained (the paper: 180)."""
    population: int = 40
    """Forms that survive a generation (the paper: 40)."""
    offspring: int = 20
    """New forms in each generation (the paper: 20)."""
    multiple_of: int = 1
    """Channels are multiples of this, e.g. 8 for runtimes that want it; the full numbers always stay."""
    keep: tuple[str, ...] = ()
    """A pattern of layers whose channels all stay, e.g. 'layer1.*'; may be given several times."""
    inheritance: Literal["importance", "random"] = "importance"
    """Which channels a form begins with: those that matter most; random ones, as in the paper."""
    ranking: Literal["reciprocal", "literal", "best"] = "reciprocal"
    """How sub-networks join: by error for what they keep; the paper's formula as printed; the best sum (ours)."""
    form_epochs: int = 1
    """Passes over the training rows for each form."""
    form_rows: int | None = None
    """At most so many training rows for each form; None: as many as the detectors have."""
    form_learning_rate: float = 0.3
    """Peak of the learning rate of a form, whose training is short."""
    detector_epochs: int = 10
    """Passes over the training rows for the feature detectors."""
    detector_rows: int | None = None
    """At most so many training rows for the detectors, whose features are kept on disk meanwhile; None: all."""
    epochs: int = 20
    """Passes over the training rows for each whole network at the end."""
    batch_size: int = 64
    """Rows of one step, everywhere."""
    learning_rate: float = 0.05
    """Peak of the learning rate of the last training: SGD, and a rate that falls along a cosine."""
    augment: bool = False
    """Mirror and shift images at random while whole networks are trained."""
    runtime: Runtime | None = None
    """What will run the networks; None: pytorch."""
    precision: Precision | None = None
    """The number format they will compute in; None: float32."""
    workers: int = 1
    """How many forms are trained at a time, in processes of their own; the result is the same."""
    ray_address: str | None = None
    """Train forms on this Ray cluster, host:port or auto, that has this project and these folders; None: here."""


@dataclass(frozen=True)
class EvolveSettings:
    """Evolution of normalization-activation layers by EvoNorm: layers are tried in several slim networks."""

    budget: int = 500
    """Layers that are tried, rejected ones too; the paper tries many thousands."""
    series: Literal["batch", "sample"] = "batch"
    """batch: layers may normalize over the batch; sample: they may not."""
    networks: str | None = None
    """Your own networks in place of the slim ones, module:factory, several with commas, the cheapest first."""
    size: Literal["small", "paper"] = "small"
    """How large the slim networks and images are: for two cores, or as in the paper."""
    population: int = 100
    """Layers in the window of the evolution (the paper: 2,500)."""
    tournament_share: float = 0.05
    """Part of the window (0 to 1) that takes part in a tournament."""
    quality_steps: int = 100
    """Steps after which a layer must have learned something, in each network."""
    least_accuracy: float | None = None
    """Accuracy (0 to 1) that it must have then (the paper: 0.2); None: half way from guessing to that of BN-ReLU."""
    steps: int = 400
    """Steps of the training whose accuracies the evolution sees (the paper: about 2,000)."""
    stop_below: float = 0.1
    """A layer worse than all but this part of those before it is trained in no further network; 0: all are in all."""
    reranked: int = 5
    """How many of the best layers are trained longer at the end."""
    longer_steps: int = 2000
    """Steps of that training."""
    validation_rows: int = 1000
    """At most so many validation rows for every accuracy."""
    workers: int = 1
    """How many layers are tried at a time; more than one are trials of Ray Tune."""
    ray_address: str | None = None
    """Try layers on this Ray cluster, host:port or auto, that has this project and these folders; None: here."""
    lag: int | None = None
    """A layer is proposed without the results of the last ones, one fewer than this; None: 8 a worker, 1 for one."""


@dataclass(frozen=True)
class PrecisionSettings:
    """The precision of every layer, chosen together with the sub-network."""

    quantize: bool = False
    """Choose the precision of every layer, too, for a --runtime that has it by layer: openvino or onnxruntime."""
    precisions: str | None = None
    """What layers may compute in, of int4-weights, int8, int8-weights and float32; None: int8,float32."""
    keep_float: tuple[str, ...] = ()
    """Layers that stay in float32: a pattern of their paths, e.g. '*.classifier'; may be given several times."""


@dataclass(frozen=True)
class SearchSettings(PrecisionSettings):
    """The search among the sub-networks.

    Objectives: accuracy (r2 of a regression), latency_ms, macs, parameters, size_mib, energy_mj, memory_mib, or a
    function of your own as module:function.
    """

    objectives: str | None = None
    """Most important first, separated by commas; None: accuracy (or r2) and what is limited, else latency_ms."""
    budget: int = 60
    """How many sub-networks are measured; a larger one continues a finished search."""
    name: str = "default"
    """A run folder can hold several searches; this one's name."""
    algorithm: Literal["linas", "nsga2", "random"] = "linas"
    """How candidates are proposed."""
    rows: int | None = None
    """How many of the validation rows measure accuracy; None: all."""
    tokens: int | None = None
    """Length of the text that latency and MACs are for; None: that of the profiles, else 128."""
    threads: int | None = None
    """Threads of the latency measurement; None: those of the profiles, else 1."""
    accuracy_threads: int | None = None
    """Threads of the accuracy measurement, of which 1 is fastest with several workers; None: all processors."""
    workers: int = 1
    """How many sub-networks are measured at a time, each in a process of its own; a search goes on with any number."""
    lag: int | None = None
    """A proposal sees all results but the latest lag - 1; None: as begun, else 1, or 9 for linas on several workers."""
    ray: bool = False
    """Measure in a process of its own (a Ray worker) with one worker too."""
    ray_address: str | None = None
    """Measure on a Ray cluster, host:port or auto, where this project is installed; None: on this machine."""
    timeout_s: float | None = None
    """A sub-network that takes longer, in seconds, has failed; None: any time is fine."""
    patience: int | None = None
    """Stop when so many measurements in a row did not enlarge the hypervolume; None: never."""
    warm_start: str | None = None
    """Begin with what was measured before: a run or search folder, a study (journal or database URL) or a CSV file."""
    storage: str | None = None
    """URL of a database that keeps the study, e.g. sqlite:///studies.db; None: a journal in the run folder."""
    profile: tuple[Path, ...] = ()
    """A device profile that predicts latency_ms, measured only afterwards; several times: one for each device."""
    runtime: Runtime | None = None
    """What will run the chosen network; None: that of the profile, else pytorch."""
    precision: Precision | None = None
    """The number format it will compute in; None: that of the profile, else float32."""
    verify: int = 60
    """How many members of the front are measured again at most: with limits the best ones, else spread evenly."""
    calibration_rows: int = 128
    """How many training rows the files of the front are calibrated on, where layers of them compute in int8."""


@dataclass(frozen=True)
class _DeviceSettings:
    """How latency is measured on a device."""

    precision: Precision = "float32"
    """The number format it computes in, where the runtime has it."""
    threads: int = 1
    """Threads of the runtime."""
    batch: int = 1
    """Rows of an input."""
    tokens: int = 128
    """Length of a text; images keep their size."""
    multiple_of: int = 1
    """Measure and search only sizes that are multiples of this, e.g. 8, 16 or 32; the full sizes always stay."""
    tolerance: float = 0.04
    """A latency is stable when its ratio to the full network's is known this exactly (half of its 95 % interval)."""


@dataclass(frozen=True)
class ProfileSettings(_DeviceSettings, PrecisionSettings):
    """The profile of this machine: how latency is measured, and how much of it."""

    runtime: Runtime = "pytorch"
    """What runs the network."""
    budget: int = 100
    """How many sub-networks are measured."""
    minutes: float | None = 6.0
    """No further sub-network is begun after so many minutes, though at least 20 are; None: no limit."""


@dataclass(frozen=True)
class KitSettings(_DeviceSettings):
    """The profile of another device: how latency is measured there, and how much of it."""

    runtime: Literal["onnxruntime", "openvino"] = "onnxruntime"
    """What runs the network there; it must be installed on the device."""
    budget: int = 30
    """How many sub-networks are measured."""


@dataclass(frozen=True)
class ResultSettings:
    """How latency was measured: a result that was measured in another way is refused; None: in any way."""

    runtime: Runtime | None = None
    """What ran the network."""
    precision: Precision | None = None
    """The number format it computed in."""
    threads: int | None = None
    """Threads of the runtime."""
    batch: int | None = None
    """Rows of an input."""
    tokens: int | None = None
    """Length of a text."""
    multiple_of: int | None = None
    """Only sizes that are multiples of this were measured."""


@dataclass(frozen=True)
class Limits:
    """Limits that a chosen sub-network must meet."""

    min_accuracy: float | None = None
    """At least this accuracy (0 to 1)."""
    min_r2: float | None = None
    """At least this R squared, of a regression."""
    max_latency_ms: float | None = None
    """At most this latency in milliseconds."""
    max_macs: float | None = None
    """At most so many multiply-accumulates for one input."""
    max_parameters: float | None = None
    """At most so many parameters."""
    max_size_mib: float | None = None
    """At most this size in MiB."""
    max_energy_mj: float | None = None
    """At most this energy for one input in millijoules, where the machine has a counter."""
    max_memory_mib: float | None = None
    """At most this resident memory in MiB of a process that loads the network and runs one input."""

    def checked(self) -> dict[str, float]:
        """The limits that were set, by name; UserError for one that no value of its quantity can meet."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        check_limits(given)
        return given
