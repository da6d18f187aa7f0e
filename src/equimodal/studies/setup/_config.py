"""What a run is made of, as plain dataclasses: they come from and go to YAML unchanged."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from equimodal._utils.arguments import check_number
from equimodal._utils.outside import check_path
from equimodal._utils.schema import check
from equimodal.data import Dataset
from equimodal.data.augment import Augmentation
from equimodal.engine import check_compile_mode
from equimodal.errors import MethodError, unknown_name
from equimodal.methods import default_method, get
from equimodal.report import required_controls
from equimodal.studies.setup._cells import path_to_cell
from equimodal.studies.setup._fusion import check_fusion
from equimodal.studies.setup._own_code import module_of
from equimodal.studies.setup._uses import check_circles, check_uses, renamed, sources

_NONE_ALLOWED = ("checkpoint_every", "clip_norm", "patience")
_LARGEST_COUNT, _LARGEST_RATE, _LARGEST_WIDTH = 2**31 - 1, 1e9, 10**6
LOGGERS = ("csv", "tensorboard", "wandb", "mlflow")
_LARGEST_SEED = 2**63 - 1  # what torch and NumPy both take


@dataclass
class DataConfig:
    """Which data, and how they are split.

    Args:
        name: a built-in dataset, or the path of a bundle (.npz or folder).
        card: path of a card, for a bundle that is not described by one of ours.
        protocol: named split protocol; default the card's.
        target: named target, which decides the task; default the card's.
        task: options of the task: loss (of a regression), class_weight, dice_weight, sentiment ...
        options: further options of the loader (noise of avdigits, dials of synthetic ...).
        missing: rates at which samples lose modalities, as ``audio=0.5,text=0.1`` for all parts or
            ``train:audio=0.5;test:all=0.3``; on top of what the data lack by themselves.
        missing_file: mask of what is present (.csv, .npz, .npy), applied before the rates.
        missing_seed: decides which samples lose them.
    """

    name: str = "avdigits"
    card: str | None = None
    protocol: str | None = None
    target: str | None = None
    task: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    missing: str | None = None
    missing_file: str | None = None
    missing_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("name", "card", "missing_file"):
            value = getattr(self, name)
            if value is not None:
                check_path(f"data.{name}", str(value))
        check_number("data.missing_seed", self.missing_seed, at_least=0, at_most=_LARGEST_SEED, whole=True)


@dataclass
class ModelConfig:
    """Encoders, fusion and head of the standard model; by default Concat and a linear head (or one hidden layer).

    A segmentation has U-Nets as encoders, and a head that reads the joined features pixel by pixel. The head of a late
    fusion is one per modality.

    Args:
        feature_size: width of every encoder's output.
        size: size of the encoders that are chosen by the kind of the modality: small or base.
        head_hidden: width of a hidden layer in the head; 0 is a linear head (a 1x1 convolution).
        encoders: modality -> options of its encoder (dropout ...), on top of the chosen defaults.
        fusion: what joins the modalities: Concat, Sum, Late, FiLM, Gated, LowRank, CrossAttention or LateTransformer.
            For CrossAttention encoders that can keep their steps do so.
        fusion_options: options of the fusion: fill, and sequences (Concat, Sum), main (FiLM, Gated), out_features
            (Gated, LowRank), rank (LowRank), width, heads, layers, dropout, positions (CrossAttention), hidden
            (LateTransformer, beside width, heads, layers, dropout).
        own_encoders: modality -> import path of an encoder of yours, as ``mymodule:MyEncoder(width=64)``.
        own_model: import path of a function of yours that is given the dataset and returns the whole model, as
            ``mymodule:build(width=64)``; then the other fields do not count.

    What the last two name is imported only where the caller names the module too (``trust``, ``--trust``).
    """

    feature_size: int = 64
    size: Literal["small", "base"] = "base"
    head_hidden: int = 0
    encoders: dict[str, dict[str, Any]] = field(default_factory=dict)
    fusion: str = "Concat"
    fusion_options: dict[str, Any] = field(default_factory=dict)
    own_encoders: dict[str, str] = field(default_factory=dict)
    own_model: str | None = None

    def __post_init__(self) -> None:
        check_number("model.feature_size", self.feature_size, at_least=1, at_most=_LARGEST_WIDTH, whole=True)
        check_number("model.head_hidden", self.head_hidden, at_least=0, at_most=_LARGEST_WIDTH, whole=True)
        self.fusion = check_fusion(self.fusion, self.fusion_options)  # complains now
        for name, text in self.own_encoders.items():
            module_of(text, f"model.own_encoders.{name}")
        if self.own_model is not None:
            module_of(self.own_model, "model.own_model")


@dataclass
class TrainingConfig:
    """Budget and optimizer; the same for every method of a comparison.

    Args:
        epochs: passes over the training data.
        batch_size: samples per batch; an incomplete last one is left out (other samples in every epoch).
        optimizer: adamw, adam or sgd (momentum 0.9).
        lr: learning rate; ``auto`` finds one on the training data, see :func:`equimodal.studies.suggest_rate`.
        weight_decay: of the optimizer.
        schedule: cosine to zero, constant, or step (times 0.1 after 70 % of the epochs).
        clip_norm: largest gradient norm; null does not clip.
        accumulate: micro-batches per update.
        precision: of Lightning's Trainer: 32-true, bf16-mixed, 16-mixed (float16 with a loss scale) or 64-true.
        compile: each phase's whole loss by ``torch.compile``: false, true, or one of its modes, such as
            ``reduce-overhead`` (CUDA graphs). It pays on accelerators; on the CPU small steps get slower.
        selection: ``best``, the epoch with the best validation score (the first of equals); ``last``, which chooses
            nothing: right where the validation split is so small that the best epoch is mostly a lucky one; or
            ``average``, the mean of the weights after each epoch of the last quarter (arXiv 1803.05407), running
            statistics included.
        patience: epochs without a better validation score before training stops; null never stops early.
        device: auto, cpu, gpu, cuda or mps: Lightning's accelerator.
        devices: how many of them, a process for each, which share every batch: the numbers are those of one process
            with whole batches, up to rounding, unless the method says otherwise.
        augment: modality -> augmentations of training batches, such as ``{"image": ["flip", "crop"]}``.
        checkpoint_every: updates between two checkpoints inside an epoch; null saves after every epoch, and when the
            process is asked to end (SIGTERM).
    """

    epochs: int = 30
    batch_size: int = 64
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float | Literal["auto"] = 1e-3
    weight_decay: float = 1e-2
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    clip_norm: float | None = None
    accumulate: int = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"
    compile: bool | str = False
    selection: Literal["best", "last", "average"] = "best"
    patience: int | None = None
    device: str = "auto"
    devices: int = 1
    checkpoint_every: int | None = None
    augment: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Augmentation.of(self.augment)  # complains now
        for name in ("epochs", "batch_size", "accumulate", "checkpoint_every", "patience", "devices"):
            value = getattr(self, name)
            if value is not None or name not in _NONE_ALLOWED:
                least = 0 if name == "patience" else 1
                check_number(f"training.{name}", value, at_least=least, at_most=_LARGEST_COUNT, whole=True)
        for name in ("lr", "weight_decay", "clip_norm"):
            value = getattr(self, name)
            if name == "lr" and value == "auto":
                continue
            if value is not None or name not in _NONE_ALLOWED:
                positive = name == "clip_norm"
                check_number(
                    f"training.{name}", value, above=0 if positive else None, at_least=None if positive else 0,
                    at_most=_LARGEST_RATE,
                )  # fmt: skip
        for name, allowed in (
            ("optimizer", ("adamw", "adam", "sgd")),
            ("schedule", ("cosine", "constant", "step")),
            ("selection", ("best", "last", "average")),
            ("precision", ("32-true", "bf16-mixed", "16-mixed", "64-true")),
        ):
            if getattr(self, name) not in allowed:
                raise unknown_name(f"training.{name}", str(getattr(self, name)), allowed)
        if isinstance(self.compile, str):
            check_compile_mode("training.compile", self.compile)
        if self.selection == "average" and self.patience is not None:
            raise MethodError(
                "`training.patience`: expected null with selection 'average', which needs the last quarter of the "
                f"epochs. Found {self.patience}. Choose selection 'best' or 'last', or leave patience out."
            )


@dataclass
class LoaderConfig:
    """How batches are prepared; it changes no number.

    Args:
        workers: processes that prepare batches ahead and stay from epoch to epoch; 0 prepares them in place, which is
            best for data in memory.
    """

    workers: int = 0

    def __post_init__(self) -> None:
        check_number("loader.workers", self.workers, at_least=0, at_most=1024, whole=True)


@dataclass
class RunConfig:
    """One run: data, model, method, budget, seed.

    Args:
        method: name of a registered method; default the one to begin with.
        options: its hyperparameters.
        data: see :class:`DataConfig`.
        model: see :class:`ModelConfig`.
        training: see :class:`TrainingConfig`.
        seed: decides initial weights, order of the batches and dropout.
        probe: fit linear probes on every encoder's features at the end.
        uses: option of the method -> folder of a finished run whose trained method it takes as a companion, or
            companion -> folder. A relative path starts here, or in the run's own folder.
        metrics: names of further metrics for the record, see :func:`equimodal.tasks.named_metrics`.
        logger: names of loggers, of csv, tensorboard, wandb and mlflow.
        loader: see :class:`LoaderConfig`.
    """

    method: str = field(default_factory=default_method)
    options: dict[str, Any] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: int = 0
    probe: bool = True
    uses: dict[str, Any] = field(default_factory=dict)
    metrics: list[str] = field(default_factory=list)
    logger: list[str] = field(default_factory=lambda: ["tensorboard"])
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    def __post_init__(self) -> None:
        check_number("seed", self.seed, at_least=0, at_most=_LARGEST_SEED, whole=True)
        for name in self.logger:
            if name not in LOGGERS:
                raise unknown_name("logger", str(name), LOGGERS)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """The inverse of :meth:`to_dict`; unknown fields are refused with suggestions."""
        parts = {"data": DataConfig, "model": ModelConfig, "training": TrainingConfig, "loader": LoaderConfig}
        check(values, dict[str, Any], "configuration", error=MethodError)
        own = dict(values)
        for name, kind in parts.items():
            if isinstance(own.get(name), Mapping):
                own[name] = _make(kind, own[name], f"{name}.")
        made: RunConfig = _make(cls, own, "")
        return made


@dataclass
class Entry:
    """One row of a comparison.

    Args:
        method: name of a registered method.
        options: its hyperparameters.
        uses: option of the method -> label of another entry, whose trained method (of the same seed) it takes as a
            companion, or companion -> label: ``{"teachers": {"audio": "audio alone"}}``. The other entry is trained
            once, before all that use it.
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    uses: dict[str, Any] = field(default_factory=dict)


@dataclass
class StudyConfig:
    """A comparison.

    Args:
        entries: label -> method and options.
        seeds: one run per entry and seed.
        data: the data.
        model: the encoders, equal for all.
        training: the budget, equal for all.
        controls: add the controls that ``entries`` lacks, see :data:`~equimodal.studies.CONTROLS`; of the one for
            single modalities, an entry for each. And of an entry that is a method with its defaults, under its own
            name, the further rows that the method asks for (``MethodInfo.rows``), as ``"NAME, frozen"``.
    """

    entries: dict[str, Entry]
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    controls: bool = True
    metrics: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for seed in self.seeds:
            check_number("seeds", seed, at_least=0, at_most=_LARGEST_SEED, whole=True)

    def cells(self, data: Dataset) -> dict[str, RunConfig]:
        """Label and seed -> configuration of one run."""
        return {
            f"{label}/seed{seed}": RunConfig(
                get(entry.method).__name__, dict(entry.options), self.data, self.model, self.training, seed,
                uses=renamed(entry.uses, partial(path_to_cell, seed=seed)),
                metrics=list(self.metrics),
            )
            for label, entry in self.rows(data).items()
            for seed in self.seeds
        }  # fmt: skip

    def requirements(self, data: Dataset) -> dict[str, list[str]]:
        """Cell -> the cells whose finished runs it uses."""
        return {
            f"{label}/seed{seed}": [f"{other}/seed{seed}" for _, other in sources(entry.uses)]
            for label, entry in self.rows(data).items()
            for seed in self.seeds
        }

    def order(self, data: Dataset) -> list[str]:
        """The cells, each after those whose finished runs it uses."""
        needs, found = self.requirements(data), dict[str, None]()

        def visit(cell: str) -> None:
            for other in needs[cell]:
                visit(other)
            found[cell] = None

        for cell in needs:
            visit(cell)
        return list(found)

    def rows(self, data: Dataset) -> dict[str, Entry]:
        """Label -> entry, with the controls.

        Raises:
            UnknownNameError: a method, an option or an entry that is used does not exist.
            MethodError: entries that use each other, or an entry that lacks what its method needs.
        """
        rows: dict[str, Entry] = {}
        if self.controls:
            controls = dict(required_controls())
            single = controls.pop("single")
            rows |= {name: Entry(name) for name in controls.values()}
            rows |= {f"{single}[{m}]": Entry(single, {"modality": m}) for m in data.modalities}
            for label, entry in self.entries.items():
                if label == entry.method and not entry.options and not entry.uses:
                    for name, options in get(entry.method).info.rows.items():
                        rows[f"{label}, {name}"] = Entry(entry.method, dict(options))
        rows |= self.entries
        for label, entry in rows.items():
            check_uses(entry.method, entry.options, entry.uses, f"entry {label!r}: ")
        check_circles({label: [other for _, other in sources(entry.uses)] for label, entry in rows.items()})
        return rows


def _make(kind: type[Any], values: Mapping[str, Any], prefix: str) -> Any:
    known = [f.name for f in dataclasses.fields(kind)]
    for name in values:
        if name not in known:
            raise unknown_name(f"field {prefix}", str(name), known)
    check(values, kind, prefix.removesuffix("."), error=MethodError)
    return kind(**values)
