"""The tensors of a safetensors file by name, also where they are bfloat16.

Invariant: what is read is what was written, to the bit. Nothing is ever unpickled. safetensors'
own reader for numpy knows no bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gossipnode.learning.dtypes import dtype_of

# numpy's names of the dtypes that are kept in files, and safetensors'.
NAMES: Final = {
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "int64": "I64",
    "uint8": "U8",
}
_DTYPES: Final = {name: dtype for dtype, name in NAMES.items()}


def tensors_of(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the tensors in the bytes of a file, writable.

    Raises ``safetensors.SafetensorError`` where they are no such file, KeyError for a dtype that
    is not in ``NAMES``, and ConfigError where bfloat16 cannot be had (``dtype_of``).
    """
    # Here, not above: safetensors costs 1 MB that an idle node need not hold.
    import safetensors

    deserialize: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = safetensors.deserialize
    tensors: dict[str, NDArray[Any]] = {}
    for name, told in deserialize(data):
        dtype = _DTYPES[told["dtype"]]
        kind = dtype_of(dtype) if dtype == "bfloat16" else np.dtype(dtype)
        body = told["data"]
        if not isinstance(body, bytearray):  # older releases give bytes
            body = bytearray(body)
        tensors[name] = np.frombuffer(body, kind).reshape(told["shape"])
    return tensors
