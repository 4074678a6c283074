"""Model files: params as safetensors with the metadata that a stranger needs to apply them.

Invariant: what is loaded is what was saved, to the bit, and fits the schema that it names.
Nothing is ever unpickled: safetensors holds numbers and strings only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from gossipnode.errors import DataError, StorageError
from gossipnode.learning.data import Standardizer, load, split
from gossipnode.learning.dtypes import DTYPES
from gossipnode.learning.learner import NumpyLearner, make_task
from gossipnode.learning.optimizer import SGD
from gossipnode.learning.params import Array, Layout
from gossipnode.learning.schedule import schedule


def model_bytes(params: Array, layout: Layout, metadata: Mapping[str, Any]) -> bytes:
    """Return a safetensors file: each tensor by its layout name, and string metadata.

    ``layout`` and ``schema`` are added to ``metadata``; whatever in it is no string is written
    as JSON. ``params`` has shape (d,).
    """
    layout.check(params)
    texts = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in metadata.items()
    }
    texts |= {"layout": json.dumps(layout.to_json()), "schema": layout.schema}
    content: bytes = safetensors.numpy.save(layout.views(params), texts)
    return content


def save_model(path: Path, params: Array, layout: Layout, metadata: Mapping[str, Any]) -> None:
    """Write ``model_bytes`` to ``path``; StorageError where the disk refuses."""
    try:
        path.write_bytes(model_bytes(params, layout, metadata))
    except OSError as error:
        raise StorageError(f"{path}: model cannot be written: {error}") from error


def load_model(path: Path) -> tuple[Array, dict[str, str]]:
    """Return params, shape (d,), and metadata; DataError for no model file of this kind."""
    file = str(path)
    try:
        with safetensors.safe_open(file, framework="np") as tensors:
            metadata: dict[str, str] = dict(tensors.metadata() or {})
            layout = layout_of(metadata, file=file)
            # Shapes first: a layout that lies must not make us allocate what it promises.
            for spec in layout.tensors:
                if tuple(tensors.get_slice(spec.name).get_shape()) != spec.shape:
                    raise DataError(f"tensor {spec.name!r} does not fit the layout", file=file)
            params = layout.zeros()
            for name, view in layout.views(params).items():
                stored = tensors.get_tensor(name)
                if stored.dtype != view.dtype:
                    raise DataError(f"tensor {name!r} is {stored.dtype}", file=file)
                view[...] = stored
    except (OSError, safetensors.SafetensorError) as error:
        raise DataError(f"cannot be read as a model: {error}", file=file) from error
    return params, metadata


def layout_of(metadata: Mapping[str, str], *, file: str | None = None) -> Layout:
    """Return the layout in a model file's metadata; DataError where it is not there or broken.

    Raises ConfigError where it is of bfloat16 and ml_dtypes is not installed.
    """
    try:
        told = json.loads(metadata["layout"])
        if told["dtype"] not in DTYPES:
            raise ValueError(told["dtype"])
        shapes = {str(name): tuple(shape) for name, shape, _ in told["tensors"]}
        if any(not isinstance(n, int) or n < 0 for shape in shapes.values() for n in shape):
            raise DataError("a shape in the layout is no list of sizes", file=file)
        layout = Layout.of(shapes, str(told["dtype"]), tuple(map(str, told["meaning"])))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError("is no gossipnode model: it has no layout", file=file) from error
    if layout.schema != metadata.get("schema"):
        raise DataError("the layout does not fit the schema that it names", file=file)
    return layout


def learner_for_model(
    metadata: Mapping[str, str],
    *,
    data: str,
    label: str | None = None,
    test_fraction: float = 0.0,
    split_seed: int = 0,
) -> NumpyLearner:
    """Return a learner whose ``evaluate`` measures the model on ``data``.

    The model's own class names and standardization apply. ``label`` is needed only where the
    table calls the column otherwise. ``test_fraction`` 0 takes every sample, otherwise the test
    part of ``split``; of data that brings its own test samples, those. Raises DataError where
    the features are not those that the model was trained on.
    """
    description = _description(metadata)
    task = make_task(description)
    labels = tuple(description["labels"])
    dataset, test = load(
        data,
        label=label or description["label"] or None,
        regression=not labels,
        dtype=task.layout.dtype,
        labels=labels,
    )
    if test is None:
        test = split(dataset, test_fraction, split_seed)[1] if test_fraction else dataset
    if test is None:
        raise DataError("no sample is left to evaluate on", file=data)
    names = tuple(description["feature_names"])
    for index, name in enumerate(names):
        if test.feature_names[index : index + 1] != (name,):
            raise DataError(f"the model needs {name!r} as feature {index}", file=data)
    if len(test.feature_names) != len(names):
        extra = test.feature_names[len(names)]
        raise DataError(f"the model knows no feature {extra!r}", file=data)
    if description["standardizer"]:
        Standardizer.from_json(description["standardizer"]).apply(test.features)
    rng = np.random.default_rng(0)
    return NumpyLearner(
        task,
        None,
        test,
        SGD(0.0),
        schedule("constant"),
        0,
        rng,
        description=description,
        dtype=description["dtype"],
    )


def _description(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what ``Learner.describe`` put under ``task``; DataError where it is not whole."""
    keys = {"task", "dtype", "hidden", "l2", "label", "labels", "feature_names", "standardizer"}
    try:
        description = json.loads(metadata["task"])
    except (KeyError, ValueError) as error:
        raise DataError("the model does not tell its task") from error
    if not isinstance(description, dict) or not keys <= description.keys():
        raise DataError("the model's task needs no data, or is not told in full")
    return description
