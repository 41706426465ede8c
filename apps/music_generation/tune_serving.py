"""A tune model in use: what TF Serving loads. Everything here runs in the graph."""

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import tensorflow as tf

from apps.common.decoding import NEG_INF, random_numbers, sample, sample_token
from apps.common.sequences import within
from apps.music_generation.grammar import TICKS, make_table
from apps.music_generation.model import TuneModel
from data_pipelines.abc import MODES, Tune, metre_length
from data_pipelines.tunes import TuneVocabulary
from data_pipelines.vocabulary import END, START, UNKNOWN


def tune_headers(tunes: Sequence[Tune]) -> dict[str, int]:
    """How often each metre, unit and key occurs, the most frequent first.

    >>> tune_headers([Tune("6/8", "1/8", "Dmaj", "d3|")])
    {'M:6/8\\nL:1/8\\nK:Dmaj\\n': 1}
    """
    counts = Counter(f"M:{tune.metre}\nL:{tune.unit}\nK:{tune.key}\n" for tune in tunes)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


PRIME_LIMIT = 4  # times `max_length`, in characters: every one is a step of the network
SCORE_LIMIT = 100_000  # bytes
LARGEST_SCORE = 2**17  # tokens of a request, padding counted


class TuneWriter(tf.Module):
    """Continues tunes.

    Args:
        model, vocabulary: what was trained.
        headers: what `tune_headers` counted; a tune without a header gets one of them.
        top_k: draw from so many tokens only; 0: from all.
        max_length: tokens of a tune, at most.
    """

    def __init__(
        self, model: TuneModel, vocabulary: TuneVocabulary, headers: Mapping[str, int], top_k: int, max_length: int
    ) -> None:
        super().__init__()
        self.model, self.vocabulary, self.top_k, self.max_length = model, vocabulary, top_k, max_length
        self.headers = tf.constant(list(headers))
        self.header_weights = tf.constant(np.log(list(headers.values())), tf.float32)
        bars: Counter[int] = Counter()
        metres = {}
        for header, count in headers.items():
            metre, unit, _ = (line[2:] for line in header.splitlines())
            ticks = metre_length(metre) / Fraction(unit) * TICKS
            if ticks.denominator == 1 and ticks <= 16 * TICKS:
                metres[f"M:{metre}\nL:{unit}\n"] = int(ticks)
                bars[int(ticks)] += count
        table = make_table(["", "", "", "", *vocabulary.words], bars)
        self.after = tf.constant(table.after)
        self.may_end = tf.constant(table.may_end)
        self.usual = table.starts[bars.most_common(1)[0][0]]
        self.bar_starts = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(list(metres)), tf.constant([table.starts[ticks] for ticks in metres.values()], tf.int32)
            ),
            self.usual,
        )

    # -- the signatures

    def write(
        self, prompt: tf.Tensor, length: Any, temperature: Any, top_p: Any, seed: Any, constrained: bool
    ) -> dict[str, tf.Tensor]:
        """Continue each prompt until its tune ends; with `constrained`, every bar is as long as the metre says.

        A prompt that is far longer than a tune may become comes back as it is.
        """
        count = tf.shape(prompt)[0]
        length, temperature, top_p, seed = (
            _one_or_each(value, name, count)
            for value, name in ((length, "length"), (temperature, "temperature"), (top_p, "top_p"), (seed, "seed"))
        )
        whole = tf.strings.unicode_transcode(prompt, "UTF-8", "UTF-8")  # broken bytes become U+FFFD
        too_long = tf.strings.length(whole, "UTF8_CHAR") > PRIME_LIMIT * self.max_length
        heading, text = self._plain(tf.where(too_long, "", whole), tf.cast(seed, tf.int32), constrained)
        ids = self.vocabulary.ids(self.vocabulary.tokenize(text))
        ids = tf.concat([tf.fill([count, 1], START), ids], axis=1)
        last = tf.gather(ids.flat_values, ids.row_limits() - 1)
        state: dict[str, Any] = {"stack": self._read(ids[:, :-1], self.model.start(count))[0]}
        if constrained:
            state["bar"] = self._bar(text)
            state["first"] = tf.ones([count], tf.bool)
        limit = tf.broadcast_to(tf.clip_by_value(tf.cast(length, tf.int32), 1, self.max_length), [count])
        limit = tf.where(too_long, 1, limit)

        def step(tokens: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any, None]:
            token, before = tokens[:, 0], tf.nest.map_structure(lambda s: s[:, 0], state)
            logits, stack = self.model.step(token, before["stack"])
            after: dict[str, Any] = {"stack": stack}
            forbidden = tf.reduce_any(tf.range(logits.shape[-1]) == [[UNKNOWN], [START]], axis=0)[None]
            if constrained:
                moved = tf.gather_nd(self.after, tf.stack([before["bar"], token], axis=1))
                bar = tf.maximum(tf.where(before["first"], before["bar"], moved), 0)
                after |= {"bar": bar, "first": tf.zeros_like(before["first"])}
                ends = (tf.range(logits.shape[-1]) == END) & tf.gather(self.may_end, bar)[:, None]
                forbidden |= ~(ends | (tf.gather(self.after, bar) >= 0))
            logits = tf.where(forbidden, NEG_INF, logits)
            return logits[:, None], tf.nest.map_structure(lambda s: s[:, None], after), None

        found = sample(
            step, state, batch_size=count, start=last, end=END, max_length=limit, seed=seed, temperature=temperature,
            top_k=self.top_k, top_p=top_p,
        )  # fmt: skip
        tokens, lengths = found.tokens[:, 0], found.lengths[:, 0]
        written = self.vocabulary.join(tf.RaggedTensor.from_tensor(tokens, lengths=lengths))
        if constrained:  # a bar that the length cut off
            written = tf.where(lengths < limit - 1, written, tf.strings.regex_replace(written, r"[^|\n]*(?:\[\d?)?$", ""))
        return {"abc": tf.where(too_long, whole, tf.strings.join([heading, text, written]))}

    def decode_step(self, text: tf.Tensor, state: tf.Tensor, temperature: Any, top_p: Any, seed: Any) -> dict[str, tf.Tensor]:
        """Read more of each tune and draw the sign that comes next; `state` of zeros is the beginning of a tune."""
        count = tf.shape(text)[0]
        temperature, top_p, seed = (
            _one_or_each(value, name, count) for value, name in ((temperature, "temperature"), (top_p, "top_p"), (seed, "seed"))
        )
        _check_length(text, PRIME_LIMIT * self.max_length, "Send it in parts.")
        ids = self.vocabulary.ids(self.vocabulary.tokenize(text))
        begins = tf.reduce_all(state == 0, axis=1)
        ids = tf.ragged.boolean_mask(
            tf.concat([tf.fill([count, 1], START), ids], axis=1),
            tf.concat([begins[:, None], tf.ones_like(ids, tf.bool)], axis=1),
        )
        stack, logits = self._read(ids, self._unpacked(state))
        logits = tf.where(tf.reduce_any(tf.range(logits.shape[-1]) == [[0], [UNKNOWN], [START]], axis=0), NEG_INF, logits)
        token = sample_token(logits, random_numbers(seed, count, 1)[:, 0], temperature, self.top_k, top_p)
        return {"next": self.vocabulary.pieces(token), "ends": token == END, "state": self._packed(stack)}

    def score(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        """The information of whole tunes in their plain form, in bits; and their characters, the end counted as one."""
        _check_length(text, SCORE_LIMIT, "Send one tune a row.")
        ids = self.vocabulary.ids(self.vocabulary.tokenize(text))
        rows = tf.shape(text)[0]
        marked = tf.concat([tf.fill([rows, 1], START), ids, tf.fill([rows, 1], END)], axis=1).to_tensor()
        marked = tf.pad(marked, [[0, 0], [0, tf.maximum(0, 2 - tf.shape(marked)[1])]])  # an empty batch has no columns
        marked = within(marked, LARGEST_SCORE)
        logits = self.model({"tokens": marked[:, :-1]}, training=False)
        following = marked[:, 1:]
        crossed = tf.nn.sparse_softmax_cross_entropy_with_logits(following, logits)
        bits = tf.reduce_sum(tf.where(following != 0, crossed, 0.0), axis=1) / tf.math.log(2.0)
        return {"bits": bits, "characters": tf.strings.length(text, "UTF8_CHAR") + 1}

    # -- its parts

    @property
    def state_size(self) -> int:
        return sum(sum(level.state_sizes) for level in self.model.levels)

    def _packed(self, states: list[list[tf.Tensor]]) -> tf.Tensor:
        return tf.cast(tf.concat([s for level in states for s in level], axis=1), tf.float32)

    def _unpacked(self, packed: tf.Tensor) -> list[list[tf.Tensor]]:
        sizes = [size for level in self.model.levels for size in level.state_sizes]
        parts = iter(tf.split(tf.cast(packed, self.model.compute_dtype), sizes, axis=1))
        return [[next(parts) for _ in level.state_sizes] for level in self.model.levels]

    def _read(self, ids: tf.RaggedTensor, states: Any) -> tuple[Any, tf.Tensor]:
        """The states after the tokens of each row, and the logits of what follows the last one."""
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        padded = ids.to_tensor()
        logits = tf.zeros([tf.shape(padded)[0], self.vocabulary.size])

        def body(t: tf.Tensor, states: Any, logits: tf.Tensor) -> tuple[tf.Tensor, Any, tf.Tensor]:
            new_logits, new = self.model.step(padded[:, t], states)
            there = (t < lengths)[:, None]
            kept = tf.nest.map_structure(lambda a, b: tf.where(there, a, b), new, states)
            return t + 1, kept, tf.where(there, new_logits, logits)

        longest = tf.shape(padded)[1]
        shapes: Any = (tf.TensorShape([]), tf.nest.map_structure(lambda s: tf.TensorShape([None, s.shape[1]]), states))
        shapes += (tf.TensorShape([None, self.vocabulary.size]),)
        _, states, logits = tf.while_loop(
            lambda t, *_: t < longest, body, (0, states, logits), shape_invariants=shapes, parallel_iterations=1
        )
        return states, logits

    def _plain(self, prompt: tf.Tensor, seed: tf.Tensor, constrained: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """What stands before a tune's music, and the prompt in the plain form, with a header if it needs one."""
        prompt = tf.strings.regex_replace(prompt, r"\r|%[^\n]*|(?m:[ \t]+$)", "")
        heading = tf.strings.regex_replace(prompt, r"(?m)^(?:[MLK]:|[^A-Za-z]|[A-Za-z][^:]).*$\n?", "")
        heading = tf.where(tf.strings.regex_full_match(heading, r"X:(?s:.*)"), heading, tf.strings.join(["X:1\n", heading]))
        text = tf.strings.regex_replace(prompt, r"(?m)^[A-JN-Za-z]:.*$\n?", "")
        text = tf.strings.regex_replace(text, r"(?m)^([MLK]):[ \t]+", r"\1:")
        text = tf.strings.regex_replace(tf.strings.regex_replace(text, r"M:4/4", "M:C"), r"M:2/2", "M:C|")
        text = tf.strings.regex_replace(text, r"(?m)^K:([A-G][#b]?)$", r"K:\1maj")
        text = tf.strings.regex_replace(text, r"(?m)^K:([A-G][#b]?)m$", r"K:\1min")
        for mode in MODES:
            text = tf.strings.regex_replace(text, rf"(?m)^K:([A-G][#b]?) *(?i:{mode})\w*.*$", rf"K:\1{mode}")
        has_key = tf.strings.regex_full_match(text, r"(?s)(?:.*\n)?K:.*")
        opens = tf.strings.regex_full_match(text, r"(?s)[ML]:.*")
        needs = ~has_key & (constrained | ((text != "") & ~opens))
        wanted = tf.where(opens, text, "")
        weights = tf.where(self._begin_with(wanted), self.header_weights, NEG_INF)
        header = tf.gather(self.headers, sample_token(weights, random_numbers(seed + 1_000_003, tf.shape(prompt)[0], 1)[:, 0]))
        whole = tf.strings.join([_field(text, "M", "C"), _field(text, "L", "1/8"), _field(text, "K", "Cmaj"), _body(text)])
        text = tf.where(needs, tf.strings.join([header, tf.where(opens, "", text)]), tf.where(has_key, whole, text))
        return heading, text

    def _begin_with(self, wanted: tf.Tensor) -> tf.Tensor:
        """Which headers begin with each text (n, headers); all of them if none does."""
        lengths = tf.strings.length(wanted)[:, None]
        headers = tf.broadcast_to(self.headers, [tf.shape(wanted)[0], self.headers.shape[0]])
        shorter = tf.minimum(tf.broadcast_to(lengths, tf.shape(headers)), tf.strings.length(headers))
        fits = tf.strings.substr(headers, tf.zeros_like(shorter), shorter) == wanted[:, None]
        return fits | ~tf.reduce_any(fits, axis=1, keepdims=True)

    def _bar(self, text: tf.Tensor) -> tf.Tensor:
        """The state of the grammar after a text in the plain form: what it has read of its last bar."""
        start = self.bar_starts.lookup(tf.strings.join([_field(text, "M", "C"), _field(text, "L", "1/8")]))
        tail = tf.strings.regex_replace(_body(text), r"(?s)^.*(?:\||::|\n)(?:[|\]:]|\[?\d)*", "")
        ids = self.vocabulary.ids(self.vocabulary.tokenize(tail))
        padded, lengths = ids.to_tensor(), tf.cast(ids.row_lengths(), tf.int32)

        def body(t: tf.Tensor, bar: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            moved = tf.gather_nd(self.after, tf.stack([bar, padded[:, t]], axis=1))
            return t + 1, tf.where((t < lengths) & (moved >= 0), moved, bar)

        longest = tf.shape(padded)[1]
        shapes = (tf.TensorShape([]), tf.TensorShape([None]))
        return tf.while_loop(lambda t, _: t < longest, body, (0, start), shape_invariants=shapes)[1]


def _one_or_each(value: Any, name: str, count: tf.Tensor) -> tf.Tensor:
    """A number for all rows, or one for each, as a vector."""
    values = tf.reshape(value, [-1])
    size = tf.size(values)
    message = tf.strings.format(name + " has {} values for {} rows. Pass one value, or one for each row.", (size, count))
    with tf.control_dependencies([tf.debugging.Assert((size == 1) | (size == count), [message])]):
        return tf.identity(values)


def _check_length(text: tf.Tensor, limit: int, remedy: str) -> None:
    longest = tf.reduce_max(tf.concat([[0], tf.strings.length(text)], axis=0))
    message = tf.strings.format("text has {} bytes; expected at most " + f"{limit:,}. {remedy}", longest)
    tf.debugging.Assert(longest <= limit, [message])


def _field(text: tf.Tensor, name: str, default: str) -> tf.Tensor:
    """The line of a field, or `default`."""
    line = tf.strings.regex_replace(text, rf"(?s)^(?:.*?\n)??({name}:[^\n]*)(?:\n.*)?$", "\\1\n")
    there = tf.strings.regex_full_match(text, rf"(?s)(?:.*\n)?{name}:.*")
    return tf.where(there, line, f"{name}:{default}\n")


def _body(text: tf.Tensor) -> tf.Tensor:
    return tf.strings.regex_replace(text, r"(?s)^(?:[MLK]:[^\n]*(?:\n|$))+", "")


def tune_signatures(writer: TuneWriter) -> dict[str, tuple[Any, list[tf.TensorSpec]]]:
    """What the export can do; each number may be one for all rows or one for each. `serving_greedy` takes the most probable token
    each time."""
    prompt = tf.TensorSpec([None], tf.string, "prompt")
    drawing = [
        tf.TensorSpec(None, tf.float32, "temperature"),
        tf.TensorSpec(None, tf.float32, "top_p"),
        tf.TensorSpec(None, tf.int32, "seed"),
    ]
    length = tf.TensorSpec(None, tf.int32, "length")
    state = tf.TensorSpec([None, writer.state_size], tf.float32, "state")
    text = tf.TensorSpec([None], tf.string, "text")

    def serving_default(prompt, length, temperature, top_p, seed):
        return writer.write(prompt, length, temperature, top_p, seed, constrained=False)

    def serving_greedy(prompt, length):
        return writer.write(prompt, length, 0.0, 1.0, 0, constrained=False)

    def constrained(prompt, length, temperature, top_p, seed):
        return writer.write(prompt, length, temperature, top_p, seed, constrained=True)

    return {
        "serving_default": (serving_default, [prompt, length, *drawing]),
        "serving_greedy": (serving_greedy, [prompt, length]),
        "constrained": (constrained, [prompt, length, *drawing]),
        "decode_step": (writer.decode_step, [text, state, *drawing]),
        "score": (writer.score, [text]),
    }
