"""float16 and bfloat16 params: had, learnt with, kept in files."""

from __future__ import annotations

import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from gossipnode.errors import ConfigError, DataError
from gossipnode.learning.dtypes import DTYPES, computed_in, dtype_of, epsilon
from gossipnode.learning.learner import build_learner
from gossipnode.learning.modelfile import learner_for_model, load_model, model_bytes
from gossipnode.learning.tensors import tensors_of

NARROW = ("float16", "bfloat16")


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_is_had_by_its_name_and_by_itself(name):
    kind = dtype_of(name)
    assert kind.name == name
    assert dtype_of(kind) == kind
    assert computed_in(name) == (np.float64 if name == "float64" else np.float32)
    assert epsilon(name) == float(ml_dtypes.finfo(kind).eps)


def test_without_ml_dtypes_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ConfigError, match=r"task\.dtype.*pip install 'gossipnode\[bfloat16\]'"):
        build_learner(task="softmax", data="digits", dtype="bfloat16")


def test_a_float32_learner_never_imports_ml_dtypes():
    program = (
        "import sys; from gossipnode.learning.learner import build_learner\n"
        "learner = build_learner(task='softmax', data='digits')\n"
        "learner.train(learner.initial_params(0), 1)\n"
        "import gossipnode.learning.modelfile\n"
        "assert 'ml_dtypes' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("task", ["softmax", "mlp"])
def test_narrow_params_learn_the_digits(task, dtype):
    learner = build_learner(task=task, data="digits", dtype=dtype, learning_rate=0.2)
    params = learner.initial_params(0)
    for _ in range(60):
        learner.train(params, 5)
    assert params.dtype == dtype_of(dtype)
    assert learner.evaluate(params).accuracy > 0.9


@pytest.mark.parametrize("dtype", NARROW)
def test_a_call_of_train_rounds_once_at_its_end(dtype):
    """As a float32 learner that starts from the same numbers, then rounded: to the bit."""
    options = {"task": "mlp", "data": "digits", "momentum": 0.9}
    narrow, wide = build_learner(dtype=dtype, **options), build_learner(**options)
    params = narrow.initial_params(3)
    copy = params.astype(np.float32)
    result = narrow.train(params, 7)
    assert result == wide.train(copy, 7)
    assert params.tobytes() == copy.astype(dtype_of(dtype)).tobytes()


@pytest.mark.parametrize("dtype", NARROW)
def test_a_gradient_is_that_of_float32_rounded(dtype):
    options = {"task": "softmax", "data": "digits"}
    narrow, wide = build_learner(dtype=dtype, **options), build_learner(**options)
    params = narrow.initial_params(0)
    found, expected = np.empty_like(params), np.empty(params.size, np.float32)
    assert narrow.gradient(params, found) == wide.gradient(params.astype(np.float32), expected)
    assert found.tobytes() == expected.astype(dtype_of(dtype)).tobytes()


@pytest.mark.parametrize("dtype", NARROW)
def test_a_narrow_learner_goes_on_where_it_was(dtype):
    options = {"task": "softmax", "data": "digits", "momentum": 0.9, "dtype": dtype}
    learner, later = build_learner(**options), build_learner(**options)
    params = learner.initial_params(0)
    learner.train(params, 3)
    arrays, meta = learner.state()
    later.restore(arrays, json.loads(json.dumps(meta)))
    again = params.copy()
    learner.train(params, 4)
    later.train(again, 4)
    assert again.tobytes() == params.tobytes()


@pytest.mark.parametrize("dtype", NARROW)
def test_a_model_file_keeps_narrow_params_to_the_bit(dtype, tmp_path):
    learner = build_learner(task="mlp", data="digits", dtype=dtype)
    params = learner.initial_params(1)
    learner.train(params, 5)
    data = model_bytes(params, learner.layout, {"task": learner.describe()})
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["layer0.weight"]["dtype"] == {"float16": "F16", "bfloat16": "BF16"}[dtype]
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    loaded, metadata = load_model(path)
    assert loaded.dtype == params.dtype
    assert loaded.tobytes() == params.tobytes()
    stranger = learner_for_model(metadata, data="digits", test_fraction=0.2)
    assert stranger.layout.schema == learner.layout.schema
    assert stranger.evaluate(loaded) == learner.evaluate(params)


def test_a_bfloat16_model_without_ml_dtypes_says_what_to_install(tmp_path, monkeypatch):
    learner = build_learner(task="softmax", data="digits", dtype="bfloat16")
    path = tmp_path / "m.safetensors"
    path.write_bytes(model_bytes(learner.initial_params(0), learner.layout, {}))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ConfigError, match=r"gossipnode\[bfloat16\]"):
        load_model(path)


def test_the_schema_tells_dtypes_apart():
    schemas = {
        build_learner(task="softmax", data="digits", dtype=dtype).layout.schema for dtype in DTYPES
    }
    assert len(schemas) == len(DTYPES)


def test_tensors_are_read_as_they_were_written():
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal((3, 5)).astype(dtype_of(name)) for name in DTYPES}
    tensors |= {"int64": np.arange(4), "uint8": np.arange(3, dtype=np.uint8)}
    read = tensors_of(safetensors.numpy.save(tensors))
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape)
        assert read[name].tobytes() == tensor.tobytes()
        assert read[name].flags.writeable


def test_a_tensor_of_another_dtype_is_refused(tmp_path):
    learner = build_learner(task="softmax", data="digits", dtype="bfloat16")
    data = model_bytes(learner.initial_params(0), learner.layout, {})
    path = tmp_path / "m.safetensors"
    path.write_bytes(data.replace(b'"BF16"', b'"F16" '))
    with pytest.raises(DataError, match="float16"):
        load_model(path)
