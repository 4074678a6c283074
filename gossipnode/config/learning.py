"""Options of what is learnt, from what, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gossipnode.options import Section, option

TaskName = Literal["linear", "softmax", "mlp", "quadratic"]


class TaskOptions(Section):
    """What is learnt."""

    kind: TaskName = option("softmax", "The model and its loss.", flag="--task")
    hidden: tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...] = option(
        (64,), "Sizes of the hidden layers of `mlp`.", unit="units", max_length=32
    )
    l2: float = option(
        0.0, "L2 penalty: adds l2/2·‖params‖² to the loss.", flag="--l2", ge=0.0, le=1e6
    )
    dtype: Literal["float32", "float64", "float16", "bfloat16"] = option(
        "float32",
        "Number format of params, in memory and on the wire. float16 and bfloat16 halve both; "
        "training and merging compute in float32 and round once. bfloat16 needs the extra "
        "gossipnode[bfloat16].",
        flag="--dtype",
    )


class DataOptions(Section):
    """What it is learnt from."""

    source: str = option(
        "digits",
        "digits (embedded), idx:DIR (MNIST files), npz:FILE (arrays x, y), csv:FILE, parquet:FILE. "
        "A relative path is relative to where the command is run.",
        flag="--data",
    )
    label: str = option("", "Name of the label column, for csv and parquet.", flag="--label")
    classes: tuple[str, ...] = option(
        (),
        "All class names, in order. Needed where nodes read their own files and some file may "
        "lack a class: models whose classes differ refuse each other.",
    )
    test_fraction: float = option(
        0.2, "Share of the samples kept out of training to measure accuracy.", ge=0.0, le=0.9
    )
    split_seed: int = option(0, "Seed of the shuffle before the split.", ge=0, le=2**53)
    standardize: str = option(
        "none",
        "none, local (zero mean and unit variance, measured on the training samples) or the path "
        "of a JSON statistics file that all nodes share, relative to where the command is run.",
        flag="--standardize",
    )
    partition: str = option(
        "iid",
        "How nodes divide a common file: iid, dirichlet:ALPHA, shards:K, classes:K, quantity:BETA; "
        "sample:K lets each node draw K samples for itself.",
        flag="--partition",
    )
    share: str = option(
        "auto",
        "Which share of a common file is this node's: auto (its place in the peer list), all "
        "(the file is this node's own) or I/N (share I of N, counted from 0).",
        flag="--share",
        pattern=r"^(auto|all|\d{1,6}/\d{1,6})$",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> DataOptions:
        # Else whoever forgets --data beside it would train on the digits, and not know.
        if self.label and not self.source.startswith(("csv:", "parquet:")):
            raise ValueError(
                f"data.label {self.label!r} is a column of a table, and data.source {self.source} "
                "is none; choose csv:FILE or parquet:FILE (--data), or no label (--label '')"
            )
        return self


class TrainingOptions(Section):
    """Local stochastic gradient descent."""

    local_steps: int = option(
        5,
        "Local steps between two exchanges (the lectures' τ). More: fewer bytes, more drift.",
        unit="steps",
        flag="--local-steps",
        ge=0,
        le=1_000_000,
    )
    batch_size: int = option(
        32,
        "Samples a step; 0 takes all of the node's samples.",
        unit="samples",
        flag="--batch-size",
        ge=0,
        le=10_000_000,
    )
    learning_rate: float = option(
        0.1, "Step size (the lectures' η).", flag="--learning-rate", gt=0.0, le=1e6
    )
    momentum: float = option(0.0, "Heavy-ball momentum β.", flag="--momentum", ge=0.0, lt=1.0)
    nesterov: bool = option(False, "Nesterov's form of momentum.")
    schedule: Literal["constant", "step", "inverse_sqrt", "cosine"] = option(
        "constant", "How the learning rate changes with the local step.", flag="--schedule"
    )
    schedule_steps: int = option(
        1000,
        "step: steps between two cuts; inverse_sqrt: its time scale; cosine: its length.",
        unit="steps",
        ge=1,
        le=2**53,
    )
    schedule_factor: float = option(
        0.5,
        "step: the factor of a cut; cosine: the share of the rate that is left.",
        ge=0.0,
        le=1.0,
    )
