"""The tasks: least squares, softmax regression, the multilayer perceptron and the quadratic.

Invariant: each is a ``Task``, tested against finite differences. No file or thread may enter.
"""

from gossipnode.learning.tasks.linear import LinearRegression
from gossipnode.learning.tasks.mlp import MultilayerPerceptron
from gossipnode.learning.tasks.quadratic import Quadratic
from gossipnode.learning.tasks.softmax import SoftmaxRegression
from gossipnode.learning.tasks.task import Batch, Evaluation, Task

__all__ = [
    "Batch",
    "Evaluation",
    "LinearRegression",
    "MultilayerPerceptron",
    "Quadratic",
    "SoftmaxRegression",
    "Task",
]
