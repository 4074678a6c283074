"""The multilayer perceptron: fully connected layers, ReLU between them, a softmax head.

Invariant: loss = −1/m Σ ln softmax(network(X))[target] + l2/2·‖params‖². Nothing but numpy may
enter.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gossipnode.learning.data.dataset import Dataset
from gossipnode.learning.params import Array, Layout
from gossipnode.learning.scratch import scratch
from gossipnode.learning.tasks.crossentropy import evaluate_logits, loss_into_gradient
from gossipnode.learning.tasks.task import Batch, Evaluation, add_l2, feature_meaning


class MultilayerPerceptron:
    """Predict a class by layers ``layerK.weight`` (inputs, outputs) and ``layerK.bias``."""

    def __init__(
        self,
        feature_names: tuple[str, ...],
        labels: tuple[str, ...],
        *,
        hidden: Sequence[int] = (64,),
        l2: float = 0.0,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.l2 = l2
        self.hidden = tuple(hidden)
        sizes = (len(feature_names), *self.hidden, len(labels))
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            shapes[f"layer{layer}.weight"] = (inputs, outputs)
            shapes[f"layer{layer}.bias"] = (outputs,)
        self.layout = Layout.of(
            shapes,
            dtype,
            (*feature_meaning("mlp", feature_names), *(f"class:{name}" for name in labels)),
        )
        self._sizes = sizes

    def initial_params(self, rng: np.random.Generator) -> Array:
        """Return weights drawn from N(0, 2/inputs) and zero biases.

        Source: He et al., ICCV 2015, equation 10. Every node must be given the same ``rng``:
        the average of independent draws has 1/n of their variance.
        """
        params = self.layout.zeros()
        for (weight, _), inputs in zip(self._layers(params), self._sizes, strict=False):
            weight[...] = rng.standard_normal(weight.shape) * np.sqrt(2 / inputs)
        return params

    def loss_and_gradient(self, params: Array, batch: Batch, gradient_out: Array) -> float:
        """Return the loss of the module's docstring; write its gradient."""
        features, targets = batch
        layers, gradients = self._layers(params), self._layers(gradient_out)
        inputs = [features, *self._buffers(len(targets))]
        for layer, (weight, bias) in enumerate(layers):
            output = inputs[layer + 1]
            np.matmul(inputs[layer], weight, out=output)
            output += bias
            if layer < len(layers) - 1:
                np.maximum(output, 0, out=output)
        loss = loss_into_gradient(inputs[-1], targets)
        for layer in reversed(range(len(layers))):
            delta = inputs[layer + 1]  # by now the gradient of this layer's output
            np.matmul(inputs[layer].T, delta, out=gradients[layer][0])
            np.add.reduce(delta, axis=0, out=gradients[layer][1])
            if layer:
                active = inputs[layer] > 0
                np.matmul(delta, layers[layer][0].T, out=inputs[layer])
                inputs[layer] *= active
        if self.l2:
            loss += add_l2(params, gradient_out, self.l2)
        return loss

    def evaluate(self, params: Array, data: Dataset) -> Evaluation:
        """Return mean cross-entropy and accuracy over ``data``."""
        layers = self._layers(params)

        def logits_of(features: Array) -> Array:
            output: Array = features
            for layer, (weight, bias) in enumerate(layers):
                output = output @ weight + bias
                if layer < len(layers) - 1:
                    np.maximum(output, 0, out=output)
            return output

        return evaluate_logits(logits_of, data)

    def _layers(self, params: Array) -> list[tuple[Array, Array]]:
        """Return each layer's weight and bias as views into ``params``."""
        views: list[tuple[Array, Array]] = []
        for weight, bias in zip(self.layout.tensors[::2], self.layout.tensors[1::2], strict=True):
            views.append(
                (
                    params[weight.offset : bias.offset].reshape(weight.shape),
                    params[bias.offset : bias.offset + bias.size],
                )
            )
        return views

    def _buffers(self, rows: int) -> list[np.ndarray[Any, Any]]:
        return [
            scratch(f"layer {layer}", (rows, size), self.layout.dtype)
            for layer, size in enumerate(self._sizes[1:])
        ]
