"""Generation of piano rolls and the signatures of the export. Everything here runs in the graph."""

from typing import Any

import tensorflow as tf

from apps.common.decoding.sampling import random_numbers
from apps.common.decoding.sequences import check_request_size, one_or_each
from apps.music_generation.rolls.model import RollModel
from data_pipelines.piano_rolls import KEYS

FRAMES_LIMIT = 50_000  # of a piece
LARGEST_REQUEST = 2**17  # frames, padding and those to be generated counted
BLOCK = 1024  # frames whose keys are scored at once: they take 100 kB each


def roll_signatures(generator: "RollGenerator") -> dict[str, tuple[Any, list[tf.TensorSpec]]]:
    """The signatures of the export. `serving_greedy` plays each key whose probability exceeds 1/2."""
    frames = tf.TensorSpec([None, None, KEYS], tf.uint8, "frames")
    new_frames = tf.TensorSpec([], tf.int32, "new_frames")
    temperature = tf.TensorSpec([], tf.float32, "temperature")
    seed = tf.TensorSpec(None, tf.int32, "seed")
    frame = tf.TensorSpec([None, KEYS], tf.uint8, "frame")
    state = tf.TensorSpec([None, generator.model.state_size], tf.float32, "state")
    lengths = tf.TensorSpec([None], tf.int32, "lengths")

    def serving_greedy(frames, new_frames):
        return generator.generate(frames, new_frames, tf.constant(0.0), tf.constant(0))

    return {
        "serving_default": (generator.generate, [frames, new_frames, temperature, seed]),
        "serving_greedy": (serving_greedy, [frames, new_frames]),
        "decode_step": (generator.decode_step, [frame, state, temperature, seed]),
        "score": (generator.score, [frames, lengths]),
    }


class RollGenerator(tf.Module):
    """Continues pieces.

    Args:
        model: what was trained.
        max_length: frames that are generated, at most.
    """

    def __init__(self, model: RollModel, max_length: int) -> None:
        super().__init__()
        self.model, self.max_length = model, max_length

    def generate(self, frames: tf.Tensor, new_frames: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """The frames of the prompt (n, time, keys) and `new_frames` more; the time may be 0. Of `seed` there may be one a row."""
        (seed,) = one_or_each(tf.shape(frames)[0], seed=seed)
        _check_length(tf.shape(frames)[1])
        new = tf.clip_by_value(tf.cast(new_frames, tf.int32), 0, self.max_length)
        largest = max(LARGEST_REQUEST, FRAMES_LIMIT + self.max_length)  # one row always fits
        frames = check_request_size(frames, largest, "frames", new=new, unit="frames")
        count, before = tf.shape(frames)[0], tf.shape(frames)[1]  # of what was checked: nothing is allocated before
        prompt = tf.transpose(tf.cast(frames > 0, tf.float32), [1, 0, 2])
        total = before + new
        steps = tf.maximum(total, 1)  # an array of nothing can't be stacked
        uniform = tf.transpose(tf.reshape(random_numbers(seed, count, steps * KEYS), [count, steps, KEYS]), [1, 2, 0])

        def body(t, last, states, generated):
            dependence, states = self.model.decode_step(last, states)
            frame = tf.cond(
                t < before,
                lambda: prompt[tf.minimum(t, before - 1)],
                lambda: self._sample(dependence, temperature, uniform[t]),  # a loop over the keys
            )
            frame.set_shape([None, KEYS])
            return t + 1, frame, states, generated.write(t, frame)

        first = (
            0,
            tf.zeros([count, KEYS]),
            self.model.get_initial_state(count),
            tf.TensorArray(tf.float32, steps, element_shape=[None, KEYS]),
        )
        invariants = (
            tf.TensorShape([]),
            tf.TensorShape([None, KEYS]),
            tf.nest.map_structure(lambda s: tf.TensorShape([None, s.shape[1]]), first[2]),
            tf.TensorShape(None),
        )
        generated = tf.while_loop(lambda t, *_: t < steps, body, first, shape_invariants=invariants, parallel_iterations=1)[3]
        stacked = tf.reshape(generated.stack(), [steps, count, KEYS])[:total]
        return {"frames": tf.cast(tf.transpose(stacked, [1, 0, 2]), tf.uint8)}

    def decode_step(self, frame: tf.Tensor, state: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """Read the frame that sounds now (n, keys) and sample the next; a piece begins with silence and a state of zeros."""
        dependence, states = self.model.decode_step(tf.cast(frame > 0, tf.float32), self.model.unpack(state))
        (seed,) = one_or_each(tf.shape(frame)[0], seed=seed)
        sampled = self._sample(dependence, temperature, tf.transpose(random_numbers(seed, tf.shape(frame)[0], KEYS)))
        return {"frame": tf.cast(sampled, tf.uint8), "state": self.model.pack(states)}

    def score(self, frames: tf.Tensor, lengths: tf.Tensor) -> dict[str, tf.Tensor]:
        """The negative log-likelihood of whole pieces (n, time, keys), in nats, and their frames."""
        _check_length(tf.shape(frames)[1])
        frames = check_request_size(frames, LARGEST_REQUEST, "frames", unit="frames")
        missing = tf.maximum(0, 1 - tf.shape(frames)[1])  # pieces of nothing still have one frame
        targets = tf.pad(tf.cast(frames > 0, tf.float32), [[0, 0], [0, missing], [0, 0]])
        past = tf.pad(targets, [[0, 0], [1, 0], [0, 0]])[:, :-1]
        nats = self._nats(self.model.unfold(tf.cast(past, self.model.compute_dtype)), targets)
        there = tf.sequence_mask(lengths, tf.shape(targets)[1])
        return {"nats": tf.reduce_sum(tf.where(there, nats, 0.0), axis=1), "frames": lengths}

    def _nats(self, h: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Of each frame (n, time), block by block."""
        count = tf.size(targets) // KEYS
        block = tf.clip_by_value(count, 1, BLOCK)
        blocks = tf.maximum(1, -(-count // block))

        def in_blocks(x: tf.Tensor) -> tf.Tensor:
            return tf.reshape(
                tf.pad(tf.reshape(x, [count, x.shape[-1]]), [[0, blocks * block - count], [0, 0]]), [blocks, block, x.shape[-1]]
            )

        def nats_of(pair: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            logits = tf.cast(self.model.key_logits(*pair), tf.float32)
            return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(pair[1], logits), axis=-1)

        spec = tf.TensorSpec([None], tf.float32)
        nats = tf.map_fn(nats_of, (in_blocks(h), in_blocks(targets)), fn_output_signature=spec, parallel_iterations=1)
        return tf.reshape(tf.reshape(nats, [-1])[:count], tf.shape(targets)[:2])

    def _sample(self, dependence: Any, temperature: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """One frame, from its lowest key to its highest."""
        bias, hidden = dependence
        temperature = tf.where(temperature > 1e-4, temperature, 1e-4)  # from 0 downwards: keys of a probability above 1/2
        if hidden is None:
            return tf.cast(tf.transpose(uniform) < tf.sigmoid(bias / temperature), tf.float32)

        def body(k, a, frame):
            logit = bias[:, k] + tf.linalg.matvec(tf.sigmoid(a), self.model.above[k])
            key = tf.cast(uniform[k] < tf.sigmoid(logit / temperature), tf.float32)
            return k + 1, a + key[:, None] * self.model.below[k], frame.write(k, key)

        frame = tf.TensorArray(tf.float32, KEYS, element_shape=[None])
        frame = tf.while_loop(lambda k, *_: k < KEYS, body, (0, hidden, frame), parallel_iterations=1)[2]
        return tf.transpose(frame.stack())


def _check_length(time: tf.Tensor) -> None:
    message = tf.strings.format("frames has {} frames; expected at most " + f"{FRAMES_LIMIT:,}. Send its end only.", time)
    tf.debugging.Assert(time <= FRAMES_LIMIT, [message])
