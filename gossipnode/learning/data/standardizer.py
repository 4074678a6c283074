"""Standardization: each feature minus its mean, over its standard deviation.

Invariant: a constant feature becomes 0 exactly, never a division by (nearly) zero.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossipnode.errors import DataError
from gossipnode.learning.params import Array

# Rows worked on at a time: bounds the float64 temporaries to 26 MB at 784 features.
ROWS = 4096


@dataclass(frozen=True)
class Standardizer:
    """``mean`` and ``scale`` of each feature, float64, shape (p,); ``feature_names`` as read."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    feature_names: tuple[str, ...]

    @classmethod
    def fit(cls, features: Array, feature_names: tuple[str, ...]) -> Standardizer:
        """Measure ``features``, shape (m ≥ 1, p): mean and population standard deviation."""
        mean = features.mean(axis=0, dtype=np.float64)
        square = np.zeros_like(mean)
        for part in _row_parts(features):
            square += np.square(features[part] - mean).sum(axis=0)
        scale = np.sqrt(square / len(features))
        # The mean of equal numbers may be off by a rounding, so that their deviation is not 0.
        constant = features.min(axis=0) == features.max(axis=0)
        mean[constant] = features[0, constant]
        scale[constant | (scale == 0)] = 1
        return cls(mean, scale, feature_names)

    def apply(self, features: Array) -> None:
        """Replace ``features``, shape (m, p), by (features − mean) / scale, in place."""
        for part in _row_parts(features):
            features[part] = (features[part] - self.mean) / self.scale

    def check(self, feature_names: tuple[str, ...], *, file: str | None = None) -> None:
        """Raise DataError naming the first feature that differs from ``feature_names``."""
        if len(feature_names) != len(self.feature_names):
            raise DataError(
                f"statistics of {len(self.feature_names)} features do not fit data of "
                f"{len(feature_names)}",
                file=file,
            )
        for ours, theirs in zip(self.feature_names, feature_names, strict=True):
            if ours != theirs:
                raise DataError(
                    f"statistics of {ours!r} stand where the data has {theirs!r}", file=file
                )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; ``from_json`` gives back the same to the bit."""
        return {
            "feature_names": list(self.feature_names),
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
        }

    @classmethod
    def from_json(cls, value: Any, *, file: str | None = None) -> Standardizer:
        """Return the standardizer that ``to_json`` described; DataError where it does not."""
        keys = ("feature_names", "mean", "scale")
        if not isinstance(value, dict) or any(not isinstance(value.get(key), list) for key in keys):
            raise DataError(f"statistics need the lists {', '.join(keys)}", file=file)
        names = tuple(str(name) for name in value["feature_names"])
        try:
            mean, scale = (np.array(value[key], np.float64) for key in ("mean", "scale"))
        except (TypeError, ValueError) as error:
            raise DataError("mean and scale must be numbers", file=file) from error
        if not mean.shape == scale.shape == (len(names),):
            raise DataError("feature_names, mean and scale differ in length", file=file)
        if not (np.isfinite(mean).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise DataError("means must be finite and scales finite and positive", file=file)
        return cls(mean, scale, names)

    @classmethod
    def read(cls, path: Path) -> Standardizer:
        """Return the standardizer in the JSON file at ``path``; DataError where there is none."""
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"statistics cannot be read: {error}", file=str(path)) from error
        except json.JSONDecodeError as error:
            raise DataError(
                f"is no JSON: {error.msg}", file=str(path), row=error.lineno, column=error.colno
            ) from error
        return cls.from_json(value, file=str(path))


def _row_parts(features: Array) -> Iterator[slice]:
    for start in range(0, len(features), ROWS):
        yield slice(start, start + ROWS)
