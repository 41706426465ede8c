"""Generation of tunes and the signatures of the export. Everything here runs in the graph."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from apps.common.decoding.sampling import random_numbers, sample_token
from apps.common.decoding.search import sample
from apps.common.decoding.sequences import NEG_INF, check_request_size, check_text_size, one_or_each
from apps.music_generation.tunes.grammar import HALF, LONGEST, PITCHES, TICKS, Table, make_table
from apps.music_generation.tunes.model import TuneModel
from apps.music_generation.tunes.prompts import BarTime, default_unit, last_bar, last_field, plain_form
from data_pipelines.abc import Tune, metre_length
from data_pipelines.tunes import TuneVocabulary
from data_pipelines.vocabulary import BOS, EOS, UNKNOWN

BEATS = [*range(1, 100), *(f"0{beats}" for beats in range(1, 10))]
METRES = ("C", "C|", *(f"{beats}/{beat}" for beats in BEATS for beat in (1, 2, 4, 8, 16)))
UNITS = (1, 2, 4, 8, 16, 32)
PROMPT_LIMIT = 4  # times `max_length`, in characters: every one is a step of the network
SCORE_LIMIT = 100_000  # bytes
LARGEST_REQUEST = 2**17  # tokens, padding and those to be generated counted
LEAST_ROW = 64  # tokens: a shorter row's memory of what came before takes as much


def tune_signatures(generator: "TuneGenerator") -> dict[str, tuple[Any, list[tf.TensorSpec]]]:
    """The signatures of the export; each number may be one for all rows or one for each. `serving_greedy` takes the most probable
    token each time."""
    prompt = tf.TensorSpec([None], tf.string, "prompt")
    max_new_tokens = tf.TensorSpec(None, tf.int32, "max_new_tokens")
    sampling = [
        tf.TensorSpec(None, tf.float32, "temperature"),
        tf.TensorSpec(None, tf.float32, "top_p"),
        tf.TensorSpec(None, tf.int32, "seed"),
    ]
    state = tf.TensorSpec([None, generator.model.state_size], tf.float32, "state")
    text = tf.TensorSpec([None], tf.string, "text")

    def serving_default(prompt, max_new_tokens, temperature, top_p, seed):
        return generator.generate(prompt, max_new_tokens, temperature, top_p, seed, constrained=False)

    def serving_greedy(prompt, max_new_tokens):
        return generator.generate(prompt, max_new_tokens, 0.0, 1.0, 0, constrained=False)

    def constrained(prompt, max_new_tokens, temperature, top_p, seed):
        return generator.generate(prompt, max_new_tokens, temperature, top_p, seed, constrained=True)

    return {
        "serving_default": (serving_default, [prompt, max_new_tokens, *sampling]),
        "serving_greedy": (serving_greedy, [prompt, max_new_tokens]),
        "constrained": (constrained, [prompt, max_new_tokens, *sampling]),
        "decode_step": (generator.decode_step, [text, state, *sampling]),
        "score": (generator.score, [text]),
    }


def tune_headers(tunes: Sequence[Tune]) -> dict[str, int]:
    """How often each metre, unit and key occurs, the most frequent first.

    >>> tune_headers([Tune("6/8", "1/8", "Dmaj", "d3|")])
    {'M:6/8\\nL:1/8\\nK:Dmaj\\n': 1}
    """
    counts = Counter(f"M:{tune.metre}\nL:{tune.unit}\nK:{tune.key}\n" for tune in tunes)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


class TuneGenerator(tf.Module):
    """Continues tunes.

    Args:
        model, vocabulary: what was trained.
        headers: what `tune_headers` counted; a tune without a header gets one of them.
        top_k: sample from so many tokens only; 0: from all.
        max_length: tokens that are generated, at most.
    """

    def __init__(
        self, model: TuneModel, vocabulary: TuneVocabulary, headers: Mapping[str, int], top_k: int, max_length: int
    ) -> None:
        super().__init__()
        self.model, self.vocabulary, self.top_k, self.max_length = model, vocabulary, top_k, max_length
        lines = [header.splitlines(keepends=True) for header in headers]
        self.metres, self.units, self.keys = (tf.constant(column) for column in zip(*lines))
        self.header_weights = tf.constant(np.log(list(headers.values())), tf.float32)
        table = make_table(["", "", "", "", *vocabulary.words])
        self.after, self.columns, self.may_begin, self.may_end = map(tf.constant, table)
        self.pitch = next((word for word in vocabulary.words if word in PITCHES), "")
        bars = {f"M:{metre}\nL:1/{unit}\n": table.ticks(metre_length(metre) * unit) for metre in METRES for unit in UNITS}
        filled = [bars[metre + unit] for metre, unit, _ in lines]
        self.is_filled = tf.constant(np.array(filled) > 0)
        usual = next((ticks for ticks in filled if ticks), 8 * TICKS)  # where the metre can't be read
        self.bars = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(tf.constant(list(bars)), tf.constant(list(bars.values()), tf.int32)), usual
        )
        self.bar_time = BarTime()

    def generate(
        self, prompt: tf.Tensor, max_new_tokens: Any, temperature: Any, top_p: Any, seed: Any, constrained: bool
    ) -> dict[str, tf.Tensor]:
        """Continue each prompt until its tune ends; with `constrained`, every bar is as long as the metre says.

        A prompt that is far longer than a tune may become is returned unchanged.
        """
        count = tf.shape(prompt)[0]
        max_new_tokens, temperature, top_p, seed = one_or_each(
            count, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed
        )
        whole = tf.strings.unicode_transcode(check_text_size(prompt, "prompt"), "UTF-8", "UTF-8")  # broken bytes become U+FFFD
        too_long = tf.strings.length(whole, "UTF8_CHAR") > PROMPT_LIMIT * self.max_length
        heading, text = self._with_header(tf.where(too_long, "", whole), tf.cast(seed, tf.int32), constrained)
        ids = self.vocabulary.encode(text)
        ids = tf.concat([tf.fill([count, 1], BOS), ids], axis=1)
        limit = tf.broadcast_to(tf.clip_by_value(tf.cast(max_new_tokens, tf.int32), 0, self.max_length), [count])
        limit = tf.where(too_long, 0, limit)
        largest = max(LARGEST_REQUEST, (PROMPT_LIMIT + 1) * self.max_length + 1)  # one row always fits
        ids = check_request_size(ids, largest, "prompt", new=tf.reduce_max(tf.concat([[0], limit], axis=0)), least=LEAST_ROW)
        last = tf.gather(ids.flat_values, ids.row_limits() - 1)
        count = tf.shape(last)[0]  # of what was checked: nothing is allocated before
        state: dict[str, Any] = {"stack": self._read(ids[:, :-1], self.model.get_initial_state(count))[0]}
        if constrained:
            state["bar"], state["start"] = self._bar(text)
            state["first"] = tf.ones([count], tf.bool)

        def step(tokens: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any, None]:
            token, before = tokens[:, 0], tf.nest.map_structure(lambda s: s[:, 0], state)
            logits, stack = self.model.decode_step(token, before["stack"])
            after: dict[str, Any] = {"stack": stack}
            forbidden = tf.reduce_any(tf.range(logits.shape[-1]) == [[UNKNOWN], [BOS]], axis=0)[None]
            if constrained:
                moved = self._moved(before["bar"], before["start"], token)
                bar = tf.maximum(tf.where(before["first"], before["bar"], moved), 0)
                after |= {"bar": bar, "start": before["start"], "first": tf.zeros_like(before["first"])}
                ends = (tf.range(logits.shape[-1]) == EOS) & tf.gather(self.may_end, bar)[:, None]
                forbidden |= ~(ends | (tf.gather(self._moves(bar, before["start"]), self.columns, axis=1) >= 0))
            logits = tf.where(forbidden, NEG_INF, logits)
            return logits[:, None], tf.nest.map_structure(lambda s: s[:, None], after), None

        found = sample(
            step, state, batch_size=count, start=last, end=EOS, max_length=limit + 1, seed=seed, temperature=temperature,
            top_k=self.top_k, top_p=top_p,
        )  # fmt: skip
        tokens, lengths = found.tokens[:, 0], found.lengths[:, 0]
        generated = self.vocabulary.detokenize(tf.RaggedTensor.from_tensor(tokens, lengths=lengths))
        if constrained:  # a bar that the limit cut off
            whole_bars = tf.strings.regex_replace(generated, r"[^|\n]*(?:\[\d?)?$", "")
            generated = tf.where(lengths < limit, generated, whole_bars)
        return {"abc": tf.where(too_long, whole, tf.strings.join([heading, text, generated]))}

    def decode_step(self, text: tf.Tensor, state: tf.Tensor, temperature: Any, top_p: Any, seed: Any) -> dict[str, tf.Tensor]:
        """Read more of each tune and sample the token that comes next; `state` of zeros is the beginning of a tune."""
        count = tf.shape(text)[0]
        temperature, top_p, seed = one_or_each(count, temperature=temperature, top_p=top_p, seed=seed)
        _check_length(text, PROMPT_LIMIT * self.max_length, "Send it in parts.")
        ids = self.vocabulary.encode(text)
        begins = tf.reduce_all(state == 0, axis=1)
        ids = tf.ragged.boolean_mask(
            tf.concat([tf.fill([count, 1], BOS), ids], axis=1),
            tf.concat([begins[:, None], tf.ones_like(ids, tf.bool)], axis=1),
        )
        stack, logits = self._read(check_request_size(ids, LARGEST_REQUEST, least=LEAST_ROW), self.model.unpack(state))
        logits = tf.where(tf.reduce_any(tf.range(logits.shape[-1]) == [[0], [UNKNOWN], [BOS]], axis=0), NEG_INF, logits)
        token = sample_token(logits, random_numbers(seed, count, 1)[:, 0], temperature, self.top_k, top_p)
        return {"token": self.vocabulary.ids_to_tokens(token), "finished": token == EOS, "state": self.model.pack(stack)}

    def score(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        """The information of whole tunes in their plain form, in bits; and their characters, the end counted as one."""
        _check_length(text, SCORE_LIMIT, "Send one tune a row.")
        ids = self.vocabulary.encode(text)
        rows = tf.shape(text)[0]
        ragged = tf.concat([tf.fill([rows, 1], BOS), ids, tf.fill([rows, 1], EOS)], axis=1)
        marked = check_request_size(ragged, LARGEST_REQUEST, least=LEAST_ROW).to_tensor()
        marked = tf.pad(marked, [[0, 0], [0, tf.maximum(0, 2 - tf.shape(marked)[1])]])  # an empty batch has no columns
        logits = self.model({"tokens": marked[:, :-1]}, training=False)
        targets = marked[:, 1:]
        crossed = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
        bits = tf.reduce_sum(tf.where(targets != 0, crossed, 0.0), axis=1) / tf.math.log(2.0)
        return {"bits": bits, "characters": tf.strings.length(text, "UTF8_CHAR") + 1}

    def _read(self, ids: tf.RaggedTensor, states: Any) -> tuple[Any, tf.Tensor]:
        """The states after the tokens of each row, and the logits of what follows the last one."""
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        padded = ids.to_tensor()
        logits = tf.zeros([tf.shape(padded)[0], self.vocabulary.size])

        def body(t: tf.Tensor, states: Any, logits: tf.Tensor) -> tuple[tf.Tensor, Any, tf.Tensor]:
            new_logits, new = self.model.decode_step(padded[:, t], states)
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

    def _with_header(self, prompt: tf.Tensor, seed: tf.Tensor, constrained: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """What stands before a tune's music, and the prompt in the plain form, with a header if it needs one.

        The model completes a header that is only begun; under the grammar, and before music, one is sampled.
        """
        heading, metre, unit, key, body = plain_form(prompt)
        heading = tf.where(tf.strings.regex_full_match(heading, r"X:(?s:.*)"), heading, tf.strings.join(["X:1\n", heading]))
        whole_metre = tf.where(metre == "", "M:C\n", _line(metre))
        whole = tf.strings.join([whole_metre, tf.where(unit == "", default_unit(whole_metre), _line(unit)), _line(key), body])

        usable = self.is_filled if constrained else tf.ones_like(self.is_filled)
        fits = _start_with(self.metres, metre) & _start_with(self.units, unit) & usable
        fit = tf.reduce_any(fits, axis=1)
        weights = tf.where(fits | (~fit[:, None] & usable), self.header_weights, NEG_INF)
        place = sample_token(weights, random_numbers(seed + 1_000_003, tf.shape(prompt)[0], 1)[:, 0])
        new_metre, new_unit = (
            tf.where(fit | (given == ""), tf.gather(lines, place), _line(given))
            for given, lines in ((metre, self.metres), (unit, self.units))
        )
        headed = tf.strings.join([new_metre, new_unit, tf.gather(self.keys, place), body])
        begun = (body == "") & ((metre != "") | (unit == "")) & (not constrained)
        text = tf.where(begun, tf.strings.join([tf.where(unit == "", metre, _line(metre)), unit]), headed)
        return heading, tf.where(tf.strings.regex_full_match(key, r"K:\n?") | (key == ""), text, whole)

    def _bar(self, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The states of the grammar after a text in the plain form, within its last bar, and where the next bar begins."""
        metre, unit = last_field(text, "M"), last_field(text, "L")
        names = [tf.strings.regex_replace(field, "\n", "") for field in (metre, unit)]
        bar = self.bars.lookup(tf.strings.join([metre, unit]))
        message = (
            "{} with {}: expected bars of a whole number of half unit lengths, at most " + f"{LONGEST // TICKS} units. "
            "Choose another L:, or generate without the grammar."
        )
        _check(bar > 0, message, *names)
        tail = last_bar(text)
        time, is_whole, is_abc = self.bar_time(tail)
        halves = (tf.cast(bar, tf.float32) - TICKS * time) / HALF  # of a unit length, left
        fits = (is_whole & (tf.abs(halves - tf.round(halves)) < 1e-3)) | (halves < 0)
        left = HALF * tf.cast(tf.round(tf.where(fits, halves, 0.0)), tf.int32)
        counted = Table.free(tf.maximum(left, 0))  # what is too long, or no ABC, ends at once

        start = Table.start(bar)
        plain = tf.strings.regex_replace(tail, r"\[([_^=]*[A-Ga-g][,']*)(?:[_^=A-Ga-g][^\]\d/|\n]*)?\]", r"\1")  # chords
        ids = self.vocabulary.encode(tf.strings.regex_replace(plain, r"[_^=]*[A-Ga-g][,']*", self.pitch))  # all are alike
        padded, lengths = ids.to_tensor(), tf.cast(ids.row_lengths(), tf.int32)

        def body_of_loop(t: tf.Tensor, state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            moved = self._moved(tf.maximum(state, 0), start, padded[:, t])
            return t + 1, tf.where(t < lengths, tf.where(state < 0, -1, moved), state)

        longest = tf.shape(padded)[1]
        shapes = (tf.TensorShape([]), tf.TensorShape([None]))
        read = tf.while_loop(lambda t, _: t < longest, body_of_loop, (0, start), shape_invariants=shapes)[1]
        message = "prompt: its last bar, {}, can't be completed as {} with {} says. End it, or generate without the grammar."
        _check((read >= 0) | fits | ~is_abc, message, tail, *names)
        return tf.where(read >= 0, read, counted), start

    def _moves(self, state: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
        """What follows each state (n,) by columns; `start` is the state in which its next bar begins."""
        moves = tf.gather(self.after, state)
        begins = tf.gather(self.may_begin, state)[:, None] & (moves < 0)
        return tf.where(begins, tf.gather(self.after, start), moves)

    def _moved(self, state: tf.Tensor, start: tf.Tensor, token: tf.Tensor) -> tf.Tensor:
        return tf.gather(self._moves(state, start), tf.gather(self.columns, token), batch_dims=1)


def _line(field: tf.Tensor) -> tf.Tensor:
    """A field with an end of line."""
    return tf.strings.regex_replace(tf.strings.join([field, "\n"]), r"\n+$", "\n")


def _start_with(lines: tf.Tensor, prefixes: tf.Tensor) -> tf.Tensor:
    """Which of the lines start with each text (n, lines)."""
    lines = tf.broadcast_to(lines, [tf.shape(prefixes)[0], lines.shape[0]])
    size = tf.minimum(tf.broadcast_to(tf.strings.length(prefixes)[:, None], tf.shape(lines)), tf.strings.length(lines))
    return tf.strings.substr(lines, tf.zeros_like(size), size) == prefixes[:, None]


def _check_length(text: tf.Tensor, limit: int, remedy: str) -> None:
    longest = tf.reduce_max(tf.concat([[0], tf.strings.length(text)], axis=0))
    message = tf.strings.format("text has {} bytes; expected at most " + f"{limit:,}. {remedy}", longest)
    tf.debugging.Assert(longest <= limit, [message])


def _check(right: tf.Tensor, message: str, *texts: tf.Tensor) -> None:
    """An error that names the first row (n,) that isn't right."""
    place = tf.argmax(tf.concat([~right, [True]], axis=0))
    first = [tf.concat([text, [""]], axis=0)[place] for text in texts]
    tf.debugging.Assert(tf.reduce_all(right), [tf.strings.format(message, first)])
