"""Data: readers of files into datasets, the train/test split and standardization.

Invariant: whatever is wrong with a file is a DataError that names file, row and column.
"""
