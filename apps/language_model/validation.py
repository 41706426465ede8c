"""The perplexity of held-out text, read as one stream."""

from typing import Any

import tensorflow as tf

from apps.common.training.losses import token_cross_entropy
from apps.common.training.validation import Validation, perplexity


class StreamValidation(Validation):
    """`Validation` of streams: the states are carried from batch to batch, as text goes on."""

    def __init__(self, batches: tf.data.Dataset) -> None:
        super().__init__(batches, token_cross_entropy, lambda loss: {"perplexity": perplexity(loss)})

    def sums(self) -> list[tuple[Any, Any]]:
        model = self.model
        if self._graph is None:

            def chunk(inputs: Any, targets: Any, states: Any) -> Any:
                parts = tf.split(targets, len(states), axis=1)
                sums, after = [], []
                for direction, (state, wanted) in enumerate(zip(states, parts)):
                    outputs, new = model.encode(inputs[("tokens", "reversed")[direction]], state, direction=direction)
                    sums.append(self.nll(wanted, model.logits(outputs)))
                    after.append(new)
                return sum(loss for loss, _ in sums), sum(count for _, count in sums), after

            self._graph = tf.function(chunk, reduce_retracing=True, autograph=False)
        found, states = [], None
        for inputs, targets in self.batches:
            if states is None:
                rows = int(tf.shape(targets)[0])
                states = [model.get_initial_state(rows, direction) for direction in range(len(model.stacks))]
            loss, count, states = self._graph(inputs, targets, states)
            found.append((loss, count))
        return found
