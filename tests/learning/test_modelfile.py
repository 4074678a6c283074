"""Model files: what is saved is loaded, strangers can apply it, damage is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy

from gossipnode.errors import DataError, StorageError
from gossipnode.learning.learner import build_learner
from gossipnode.learning.modelfile import (
    layout_of,
    learner_for_model,
    load_model,
    model_bytes,
    save_model,
)
from gossipnode.learning.params import Layout

LAYOUT = Layout.of({"z": (3, 2), "a": (), "m": (4,)}, "float64", ("class:0",))
PARAMS = np.arange(11.0) / 7


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(path, PARAMS, LAYOUT, {"age": 17, "task": {"task": "x"}, "note": "plain"})
    params, metadata = load_model(path)
    assert np.array_equal(params, PARAMS)
    assert layout_of(metadata) == LAYOUT
    assert metadata["schema"] == LAYOUT.schema
    assert (metadata["age"], metadata["note"]) == ("17", "plain")
    assert json.loads(metadata["task"]) == {"task": "x"}


def test_any_safetensors_reader_finds_the_tensors_by_name():
    tensors = safetensors.numpy.load(model_bytes(PARAMS, LAYOUT, {}))
    assert set(tensors) == {"z", "a", "m"}
    assert np.array_equal(tensors["z"], PARAMS[:6].reshape(3, 2))
    assert tensors["a"] == PARAMS[6]


def test_damage_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    whole = model_bytes(PARAMS, LAYOUT, {})
    for broken in (b"", b"x" * 40, whole[:-1], whole[:50]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"m\.safetensors"):
            load_model(path)
    with pytest.raises(DataError, match="nowhere"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda told: told.pop("tensors"), "no layout"),
        (lambda told: told.update(dtype="object"), "no layout"),
        (lambda told: told.update(meaning=["class:1"]), "does not fit the schema"),
        (lambda told: told["tensors"][0].__setitem__(1, [-1]), "no list of sizes"),
        (lambda told: told["tensors"][0].__setitem__(1, [10**15]), "does not fit the layout"),
        (lambda told: told.update(dtype="float32"), "is float64"),
    ],
)
def test_a_layout_that_lies_is_refused_before_it_is_believed(tmp_path, change, words):
    told = LAYOUT.to_json()
    change(told)
    if words in ("does not fit the layout", "is float64"):  # consistent with its own schema
        shapes = {name: tuple(shape) for name, shape, _ in told["tensors"]}
        lying = Layout.of(shapes, told["dtype"], tuple(told["meaning"]))
        told, schema = lying.to_json(), lying.schema
    else:
        schema = LAYOUT.schema
    path = tmp_path / "m.safetensors"
    metadata = {"layout": json.dumps(told), "schema": schema}
    path.write_bytes(safetensors.numpy.save(LAYOUT.views(PARAMS), metadata))
    with pytest.raises(DataError, match=words):
        load_model(path)


def test_a_disk_that_refuses_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="cannot be written"):
        save_model(tmp_path / "no folder" / "m", PARAMS, LAYOUT, {})


@pytest.mark.parametrize("task", ["softmax", "mlp"])
def test_a_stranger_measures_the_same_accuracy(tmp_path, task):
    learner = build_learner(task=task, data="digits", standardize="local", hidden=(16, 8))
    params = learner.initial_params(0)
    learner.train(params, 200)
    path = tmp_path / "m.safetensors"
    save_model(path, params, learner.layout, {"task": learner.describe()})
    loaded, metadata = load_model(path)
    judge = learner_for_model(metadata, data="digits", test_fraction=0.2)
    assert judge.layout.schema == metadata["schema"] == learner.layout.schema
    assert judge.evaluate(loaded) == learner.evaluate(params)
    assert judge.evaluate(loaded).accuracy > 0.8
    assert learner_for_model(metadata, data="digits").evaluate(loaded).samples == 1797


def test_a_regression_model_knows_its_label(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("a,b,y\n" + "".join(f"{i},{i % 3},{2 * i - i % 3}\n" for i in range(50)))
    learner = build_learner(
        task="linear", data=f"csv:{table}", label="y", standardize="local", learning_rate=0.3
    )
    params = learner.initial_params(0)
    learner.train(params, 500)
    metadata = {"task": json.dumps(learner.describe())}
    assert learner_for_model(metadata, data=f"csv:{table}").evaluate(params).loss < 1e-6


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("b,a,y", "needs 'a' as feature 0"),
        ("a,y", "needs 'b' as feature 1"),
        ("a,b,c,y", "knows no feature 'c'"),
    ],
)
def test_other_features_are_refused(tmp_path, header, words):
    def table(header):
        path = tmp_path / f"{header}.csv"
        cells = "\n".join(
            ",".join(str(row + i) for i in range(header.count(",") + 1)) for row in range(5)
        )
        path.write_text(f"{header}\n{cells}\n")
        return f"csv:{path}"

    learner = build_learner(task="linear", data=table("a,b,y"), label="y")
    with pytest.raises(DataError, match=words):
        learner_for_model({"task": json.dumps(learner.describe())}, data=table(header))


@pytest.mark.parametrize("metadata", [{}, {"task": "oops"}, {"task": '{"task": "quadratic"}'}])
def test_a_model_that_does_not_tell_its_task_is_refused(metadata):
    with pytest.raises(DataError, match="task"):
        learner_for_model(metadata, data="digits")
