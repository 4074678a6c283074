"""The reference problem Q16 as a data source, for all tests of algorithms."""

from __future__ import annotations

import numpy as np
import pytest
from q16 import q16


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return Q16 as a data source."""
    A, b, _ = q16()
    path = tmp_path_factory.mktemp("q16") / "q16.npz"
    np.savez(path, A=A, b=b)
    return f"npz:{path}"
