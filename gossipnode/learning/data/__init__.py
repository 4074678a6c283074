"""Data: readers of files into datasets, the train/test split and standardization.

Invariant: whatever is wrong with a file is a DataError that names file, row and column.
"""

from gossipnode.learning.data.dataset import Dataset, split
from gossipnode.learning.data.load import load
from gossipnode.learning.data.standardizer import Standardizer

__all__ = ["Dataset", "Standardizer", "load", "split"]
