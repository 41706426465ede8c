"""A model of piano rolls in use: what TF Serving loads. Everything here runs in the graph."""

from typing import Any

import tensorflow as tf

from apps.music_generation.model import RollModel
from data_pipelines.piano_rolls import KEYS

FRAMES_LIMIT = 50_000


class RollWriter(tf.Module):
    """Continues pieces.

    Args:
        model: what was trained.
        max_length: frames that are written, at most.
    """

    def __init__(self, model: RollModel, max_length: int) -> None:
        super().__init__()
        self.model, self.max_length = model, max_length

    def write(self, frames: tf.Tensor, length: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """The frames (n, time, keys) and `length` more; the time of the prompt may be 0."""
        count, before = tf.shape(frames)[0], tf.shape(frames)[1]
        _check_length(before)
        prompt = tf.transpose(tf.cast(frames > 0, tf.float32), [1, 0, 2])
        total = before + tf.clip_by_value(tf.cast(length, tf.int32), 0, self.max_length)
        seeds = tf.stack([tf.cast(seed, tf.int32), 0])
        steps = tf.maximum(total, 1)  # an array of nothing can't be stacked
        uniform = tf.random.stateless_uniform([steps, KEYS, count], seeds)

        def body(t, last, states, written):
            dependence, states = self.model.step(last, states)
            drawn = self._draw(dependence, temperature, uniform[t])
            frame = tf.cond(t < before, lambda: prompt[tf.minimum(t, before - 1)], lambda: drawn)
            frame.set_shape([None, KEYS])
            return t + 1, frame, states, written.write(t, frame)

        first = (
            0,
            tf.zeros([count, KEYS]),
            self.model.start(count),
            tf.TensorArray(tf.float32, steps, element_shape=[None, KEYS]),
        )
        invariants = (
            tf.TensorShape([]),
            tf.TensorShape([None, KEYS]),
            tf.nest.map_structure(lambda s: tf.TensorShape([None, s.shape[1]]), first[2]),
            tf.TensorShape(None),
        )
        written = tf.while_loop(lambda t, *_: t < steps, body, first, shape_invariants=invariants, parallel_iterations=1)[3]
        stacked = tf.reshape(written.stack(), [steps, count, KEYS])[:total]
        return {"frames": tf.cast(tf.transpose(stacked, [1, 0, 2]), tf.uint8)}

    def _draw(self, dependence: Any, temperature: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """One frame, from its lowest key to its highest."""
        bias, hidden = dependence
        temperature = tf.where(temperature > 1e-4, temperature, 1e-4)  # from 0 downwards: what is more probable than not
        if hidden is None:
            return tf.cast(tf.transpose(uniform) < tf.sigmoid(bias / temperature), tf.float32)

        def body(k, a, frame):
            logit = bias[:, k] + tf.linalg.matvec(tf.sigmoid(a), self.model.above[k])
            key = tf.cast(uniform[k] < tf.sigmoid(logit / temperature), tf.float32)
            return k + 1, a + key[:, None] * self.model.below[k], frame.write(k, key)

        frame = tf.TensorArray(tf.float32, KEYS, element_shape=[None])
        frame = tf.while_loop(lambda k, *_: k < KEYS, body, (0, hidden, frame), parallel_iterations=1)[2]
        return tf.transpose(frame.stack())

    def decode_step(self, frame: tf.Tensor, state: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """Read the frame that sounds now (n, keys) and draw the next; a piece begins with silence and a state of zeros."""
        sizes = [size for level in self.model.levels for size in level.state_sizes]
        parts = iter(tf.split(tf.cast(state, self.model.compute_dtype), sizes, axis=1))
        dependence, states = self.model.step(
            tf.cast(frame > 0, tf.float32), [[next(parts) for _ in level.state_sizes] for level in self.model.levels]
        )
        seeds = tf.stack([tf.cast(seed, tf.int32), 0])
        uniform = tf.random.stateless_uniform([KEYS, tf.shape(frame)[0]], seeds)
        drawn = self._draw(dependence, temperature, uniform)
        packed = tf.concat([s for level in states for s in level], axis=1)
        return {"next": tf.cast(drawn, tf.uint8), "state": tf.cast(packed, tf.float32)}

    def score(self, frames: tf.Tensor, lengths: tf.Tensor) -> dict[str, tf.Tensor]:
        """The negative log-likelihood of whole pieces (n, time, keys), in nats, and their frames."""
        _check_length(tf.shape(frames)[1])
        missing = tf.maximum(0, 1 - tf.shape(frames)[1])  # pieces of nothing still have one frame
        following = tf.pad(tf.cast(frames > 0, tf.float32), [[0, 0], [0, missing], [0, 0]])
        past = tf.pad(following, [[0, 0], [1, 0], [0, 0]])[:, :-1]
        logits = tf.cast(self.model({"frames": past, "targets": following}, training=False), tf.float32)
        nats = tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(following, logits), axis=2)
        there = tf.sequence_mask(lengths, tf.shape(following)[1])
        return {"nats": tf.reduce_sum(tf.where(there, nats, 0.0), axis=1), "frames": lengths}


def _check_length(time: tf.Tensor) -> None:
    message = tf.strings.format("frames has {} frames; expected at most " + f"{FRAMES_LIMIT:,}. Send its end only.", time)
    tf.debugging.Assert(time <= FRAMES_LIMIT, [message])


def roll_signatures(writer: RollWriter) -> dict[str, tuple[Any, list[tf.TensorSpec]]]:
    """What the export can do. `serving_greedy` lets sound what is more probable than not."""
    frames = tf.TensorSpec([None, None, KEYS], tf.uint8, "frames")
    temperature = tf.TensorSpec([], tf.float32, "temperature")
    seed = tf.TensorSpec([], tf.int32, "seed")
    length = tf.TensorSpec([], tf.int32, "length")
    size = sum(size for level in writer.model.levels for size in level.state_sizes)
    state = tf.TensorSpec([None, size], tf.float32, "state")

    def serving_greedy(frames, length):
        return writer.write(frames, length, tf.constant(0.0), tf.constant(0))

    return {
        "serving_default": (writer.write, [frames, length, temperature, seed]),
        "serving_greedy": (serving_greedy, [frames, length]),
        "decode_step": (writer.decode_step, [tf.TensorSpec([None, KEYS], tf.uint8, "frame"), state, temperature, seed]),
        "score": (writer.score, [frames, tf.TensorSpec([None], tf.int32, "lengths")]),
    }
