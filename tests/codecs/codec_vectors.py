"""Write the test vectors of the codecs: python tests/codecs/codec_vectors.py

What is written was made by the package; slow_codecs and sparse_oracle, which know docs/codecs.md
alone, judge the package on far more vectors. These are for other languages, and for later versions
of this one: a node decodes every one of them to the bits told, and one that codes as docs/codecs.md
says makes these bytes of those numbers.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from gossipnode.codecs import Coded, codec_class, decode
from gossipnode.learning.params import Layout

FILE = Path(__file__).parent.parent / "wire" / "vectors" / "codecs.json"
DTYPES = {"float32": "<f4", "float64": "<f8"}
KEYS = ("bits", "scale", "zero", "norm", "seed")
# Chosen by hand: signs of zero, a tie of magnitudes, powers of two, what no float16 holds exactly.
NUMBERS = (0.5, -2.0, 0.0, -0.0, 3.0, -3.0, 0.1, 65504.0, -1e-8, 7.0, 0.25, -0.75, 1.0)
LAYOUT = Layout.of({"weight": (12, 9), "bias": (2,)})
MATRIX = tuple((i * 37 % 23 - 11) / 4 for i in range(LAYOUT.size))
CASES = (
    ("topk", {"fraction": 0.3}, NUMBERS),
    ("topk", {"fraction": 0.3, "bits": 16}, NUMBERS),
    ("topk", {"fraction": 0.5, "bits": 8}, NUMBERS),
    ("topk", {"fraction": 0.5, "bits": 4}, NUMBERS),
    ("topk", {"fraction": 0.5, "bits": 1}, NUMBERS),
    ("topk", {"fraction": 1.0}, NUMBERS),
    ("topk", {"fraction": 0.02}, MATRIX),
    ("randomk", {"fraction": 0.3}, NUMBERS),
    ("randomk", {"fraction": 0.3, "unbiased": True}, NUMBERS),
    ("sign", {}, NUMBERS),
    ("qsgd", {"levels": 1}, NUMBERS),
    ("qsgd", {"levels": 16}, NUMBERS),
    ("qsgd", {"levels": 16, "contractive": True}, NUMBERS),
    *(("uniform", {"bits": bits}, NUMBERS) for bits in range(1, 9)),
    ("uniform", {"bits": 4, "contractive": True}, NUMBERS),
    ("float16", {}, NUMBERS),
    ("bfloat16", {}, NUMBERS),
    ("lowrank", {"rank": 1}, MATRIX),
)


def coded_by(case: dict) -> Coded:
    """Code the numbers of a case."""
    options = dict(case["options"])
    if case["codec"] == "lowrank":
        options["tensors"] = LAYOUT.tensors
    x = np.frombuffer(bytes.fromhex(case["numbers"]), DTYPES[case["dtype"]])
    return codec_class(case["codec"])(**options).encode(x, case["seed"])


def read(case: dict) -> Coded:
    """Return what a case says was sent."""
    data = np.frombuffer(bytes.fromhex(case["body"]), np.uint8)
    return Coded(case["codec"], case["dtype"], case["size"], data, **case["keys"])


def rendered() -> str:
    """Return the file's text."""
    found = []
    for codec, options, numbers in CASES:
        for dtype in ("float32", "float64"):
            x = np.array(numbers, DTYPES[dtype])
            case = {
                "codec": codec, "options": options, "dtype": dtype, "size": x.size, "seed": 42,
                "tensors": [[12, 9], [2]] if codec == "lowrank" else None,
                "numbers": x.tobytes().hex(),
            }  # fmt: skip
            coded = coded_by(case)
            sent = asdict(coded)
            case["keys"] = {key: sent[key] for key in KEYS if sent[key] is not None}
            case["body"] = coded.data.tobytes().hex()
            case["decoded"] = decode(coded, coded.data, LAYOUT.tensors).tobytes().hex()
            found.append(case)
    return json.dumps(found, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(rendered(), encoding="utf-8")
