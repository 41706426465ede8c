"""What a run survives: signals, a full disk, broken and foreign files; and what ends it: a loss that is no number."""

import errno
import hashlib
import io
import json
import os
import signal
import time
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from apps.common import cli
from apps.common.files import lock_run
from apps.common.training.averages import AveragedValidation, averaged_weights, moving_average
from apps.common.training.checkpoints import Checkpoint
from apps.common.training.runs import open_run
from apps.common.training.selection import Selection
from apps.common.training.signals import Stopped
from apps.common.training.workers import Workers
from apps.sentiment_classification.config import Config as SentimentConfig
from data_pipelines.files import write_whole
from data_pipelines.sources import DataError
from tests import forked

EXAMPLES = tf.data.Dataset.from_tensors((np.ones((1, 2), "float32"), np.ones((1, 1), "float32")))


def compiled(units=1):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units)])
    model.compile("adam", "mse")
    return model


def saved(folder, *steps, model=None):
    """A folder with checkpoints of these steps, and what saved them."""
    model = model or compiled()
    checkpoint = Checkpoint(folder, monitor="val_loss")
    checkpoint.set_model(model)
    model.optimizer.build(model.trainable_variables)
    for step in steps:
        checkpoint.step = step
        checkpoint.save()
    return checkpoint


def fit(model, checkpoint, x=None, callbacks=(), **arguments):
    x = np.ones((6, 2), "float32") if x is None else x
    callbacks = [*callbacks, checkpoint]
    model.fit(x, np.ones((6, 1), "float32"), batch_size=1, shuffle=False, verbose=0, callbacks=callbacks, **arguments)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_broken_checkpoint_is_passed_over(tmp_path, capsys):
    saved(tmp_path, 3, 7)
    newest = tmp_path / "step-00000007.npz"
    newest.write_bytes(newest.read_bytes()[:-40])
    assert Checkpoint(tmp_path).restore(compiled(), EXAMPLES) == 3
    assert "step-00000007.npz: not usable" in capsys.readouterr().out


def test_one_changed_byte_is_found(tmp_path, capsys):
    saved(tmp_path, 3, 7)
    newest = tmp_path / "step-00000007.npz"
    content = bytearray(newest.read_bytes())
    place = content.index(b"NUMPY", len(content) // 2) + 130  # in the numbers of an array
    content[place] ^= 1
    newest.write_bytes(content)
    assert Checkpoint(tmp_path).restore(compiled(), EXAMPLES) == 3
    assert "step-00000007.npz: not usable" in capsys.readouterr().out


def test_crafted_checkpoints_are_passed_over(tmp_path, capsys):
    """With a right checksum, but with a state, arrays or members that `save` does not write."""
    saved(tmp_path, 3)
    good = (tmp_path / "step-00000003.npz").read_bytes()[:-32]
    with np.load(io.BytesIO(good)) as file:
        arrays = {name: file[name] for name in file.files}
    state = json.loads(str(arrays["state"]))

    def crafted(save=np.savez, **changed):
        out = io.BytesIO()
        save(out, **{**arrays, **changed})
        return out.getvalue()

    states = [b"", b"[]", b"{}", *(json.dumps({**state, name: None}).encode() for name in state)]
    states += [json.dumps({**state, "best_epoch": 99}).encode(), json.dumps({**state, "history": [{"loss": []}]}).encode()]
    bad = [crafted(state=np.array(text.decode())) for text in states]
    bad += [crafted(np.savez_compressed), crafted(**{"best/0": np.ones(3)}), b"", b"PK\x05\x06" + bytes(18)]
    header = good.index(b"'shape': (")  # an array that says to be huge
    bad.append(good[:header] + good[header:].replace(b"'shape': (", b"'shape': (9999999999999,", 1)[: len(good) - header])
    generator = np.random.default_rng(0)
    for _ in range(60):
        changed = bytearray(good)
        for place in generator.integers(0, len(good), 4):
            changed[place] = generator.integers(256)
        bad.append(bytes(changed))
    model = compiled()
    for content in bad:
        (tmp_path / "step-00000009.npz").write_bytes(content + hashlib.sha256(content).digest())
        assert Checkpoint(tmp_path).restore(model, EXAMPLES) in (3, state["step"])
    assert capsys.readouterr().out.count("trying the checkpoint before it") >= len(states) + 4


def test_files_are_whole_or_absent(tmp_path, monkeypatch):
    write_whole(tmp_path / "a.json", "old")
    monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.json")))
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: write_whole(tmp_path / "a.json", "new"))
    assert end.value.code == 2 and (tmp_path / "a.json").read_text() == "old" and names(tmp_path) == ["a.json"]


def test_a_run_belongs_to_one_process(tmp_path):
    code = f"from pathlib import Path; from apps.common.files import lock_run; lock_run(Path({str(tmp_path)!r}))"
    holder = forked.Forked("-c", [], cwd=tmp_path, code=code + "; import time; print('has it', flush=True); time.sleep(60)")
    while not (tmp_path / ".lock").exists() or b"since" not in (tmp_path / ".lock").read_bytes():
        time.sleep(0.02)
    with pytest.raises(DataError, match=rf"process {holder.process.pid} on .*, since .*, trains this run"):
        lock_run(tmp_path)
    holder.kill()
    holder.wait()
    assert forked.run("-c", [], cwd=tmp_path, code=code).returncode == 0  # the system freed it


def test_a_checkpoint_of_another_model_is_passed_over(tmp_path, capsys):
    saved(tmp_path, 3)
    saved(tmp_path, 7, model=compiled(units=5))
    np.savez(tmp_path / "step-00000009.npz", something=np.ones(3))
    assert Checkpoint(tmp_path).restore(compiled(), EXAMPLES) == 3
    printed = capsys.readouterr().out
    assert (
        "step-00000009.npz: not usable (its checksum" in printed
        and "step-00000007.npz: not usable (it is of another model)" in printed
    )


def test_a_full_disk_is_told_and_leaves_what_was_saved(tmp_path, capsys, monkeypatch):
    checkpoint = saved(tmp_path, 3)

    def half(file, **arrays):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", half)
    checkpoint.step = 7
    checkpoint.save()
    assert "step-00000007.npz: not written (No space left on device); the run continues" in capsys.readouterr().out
    assert names(tmp_path) == ["step-00000003.npz"]
    assert Checkpoint(tmp_path).restore(compiled(), EXAMPLES) == 3


def test_an_update_that_overflows_and_is_left_out_is_a_step_all_the_same(tmp_path):
    """In mixed_float16: else a resumed run would see batches twice, and take an epoch that has ended for one under way."""
    models = [compiled(), compiled()]
    for model in models:
        model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=3e38), "mse")
    fit(models[0], Checkpoint(tmp_path, monitor="loss"))
    assert 0 < int(models[0].optimizer.iterations) < 6
    assert names(tmp_path) == ["step-00000006.npz"]
    assert Checkpoint(tmp_path).restore(models[1], EXAMPLES) == 6
    assert int(models[1].optimizer.iterations) == int(models[0].optimizer.iterations)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_under_way_and_says_how_to_go_on(number, tmp_path, capsys):
    before = signal.getsignal(number)
    model = compiled()
    ask = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: batch == 2 and os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: fit(model, Checkpoint(tmp_path), callbacks=[ask]))
    assert end.value.code == 128 + number
    assert capsys.readouterr().err == "stopped at step 3, which is saved; continue by:\nthe same command, with --resume\n"
    assert names(tmp_path) == ["step-00000003.npz"] and signal.getsignal(number) == before
    again = compiled()
    assert Checkpoint(tmp_path).restore(again, EXAMPLES) == 3
    for one, other in zip(model.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(one, other)


def test_a_signal_in_the_last_step_of_an_epoch_waits_for_its_validation(tmp_path):
    ask = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: batch == 5 and os.kill(os.getpid(), signal.SIGTERM)
    )
    checkpoint = Checkpoint(tmp_path, monitor="loss")
    with pytest.raises(Stopped, match="step 6, which is saved"):
        fit(compiled(), checkpoint, callbacks=[ask], epochs=2)
    again = Checkpoint(tmp_path)
    assert again.restore(compiled(), EXAMPLES) == 6
    assert again.selection.history == checkpoint.selection.history and len(again.selection.history) == 1


def test_an_epoch_after_a_stop_between_epochs_has_its_own_metrics(tmp_path):
    def run(model, checkpoint, start_step, epochs):
        for _, arguments in checkpoint.parts(start_step, 6, epochs):
            fit(model, checkpoint, **arguments)

    keras.utils.set_random_seed(0)
    wanted, model = Checkpoint(tmp_path / "whole", monitor="loss"), compiled()
    weights = model.get_weights()
    run(model, wanted, 0, 2)
    first, model = Checkpoint(tmp_path / "parts", monitor="loss"), compiled()
    model.set_weights(weights)
    run(model, first, 0, 1)
    again, model = Checkpoint(tmp_path / "parts", monitor="loss"), compiled()
    run(model, again, again.restore(model, EXAMPLES), 2)
    assert again.selection.history == wanted.selection.history and len(wanted.selection.history) == 2


def test_a_stop_on_a_full_disk_does_not_claim_to_be_saved(tmp_path, monkeypatch):
    def full(file, **arrays):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    ask = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: batch == 2 and os.kill(os.getpid(), signal.SIGTERM)
    )
    with pytest.raises(Stopped, match="step 3, which could not be saved"):
        fit(compiled(), Checkpoint(tmp_path), callbacks=[ask])


def test_a_signal_in_the_validation_of_the_last_epoch_stops_too(tmp_path):
    ask = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped, match="step 6"):
        fit(compiled(), Checkpoint(tmp_path, monitor="loss"), callbacks=[ask])
    assert names(tmp_path) == ["step-00000006.npz"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_no_number_ends_the_run_and_is_not_saved(value, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    x = np.ones((6, 2), "float32")
    x[3] = value
    with pytest.raises(DataError, match=r"the loss is (nan|inf) at step 4, batch 4 .* weights are in .*step-00000003.npz"):
        fit(compiled(), Checkpoint(tmp_path, every_seconds=0.0), x)
    assert names(tmp_path)[-1] == "step-00000003.npz" and signal.getsignal(signal.SIGTERM) == before
    restored = compiled()
    assert Checkpoint(tmp_path).restore(restored, EXAMPLES) == 3
    assert all(np.isfinite(weight).all() for weight in restored.get_weights())


def test_a_weight_that_is_no_number_is_not_saved(tmp_path):
    checkpoint = saved(tmp_path, 3)
    checkpoint.model.layers[0].kernel.assign([[np.nan], [1.0]])
    with pytest.raises(DataError, match=r"a weight is NaN or infinite .* weights are in .*step-00000003.npz"):
        checkpoint.save()
    assert names(tmp_path) == ["step-00000003.npz"]


# -- which epoch is kept


def epochs(checkpoint, *rows):
    """Give the checkpoint these validation metrics, an epoch each, and weights that are the number of the epoch."""
    model = compiled()
    checkpoint.set_model(model)
    checkpoint.writes = False
    model.optimizer.build(model.trainable_variables)
    for epoch, row in enumerate(rows):
        model.set_weights([np.full_like(w, epoch + 1) for w in model.get_weights()])
        checkpoint.on_epoch_end(epoch, row)
        if checkpoint.selection.finished:
            break
    checkpoint.restore_best()
    return int(model.get_weights()[0][0, 0])


def test_ties_are_decided_by_the_loss(tmp_path, capsys):
    rows = [{"val_accuracy": 1.0, "val_loss": loss} for loss in (0.955, 0.0076, 0.0034)]
    assert epochs(Checkpoint(tmp_path, patience=2), *rows) == 3
    assert "kept        epoch 3 of 3: val_accuracy 1  val_loss 0.0034" in capsys.readouterr().out


def test_a_metric_that_never_moves_neither_chooses_nor_stops(tmp_path):
    losses = (5.0, 4.0, 3.0, 2.5, 2.0, 2.2)
    checkpoint = Checkpoint(tmp_path, "val_bleu", patience=2)
    assert epochs(checkpoint, *({"val_bleu": 0.0, "val_loss": loss} for loss in losses)) == 5
    assert len(checkpoint.selection.history) == 6


def test_the_metric_chooses_once_it_moves_and_patience_counts(tmp_path):
    checkpoint = Checkpoint(tmp_path, "val_bleu", patience=2)
    values = [(0.0, 5.0), (1.0, 6.0), (0.5, 5.5), (1.0, 7.0), (9.0, 0.1)]
    assert epochs(checkpoint, *({"val_bleu": bleu, "val_loss": loss} for bleu, loss in values)) == 2
    assert checkpoint.selection.finished and len(checkpoint.selection.history) == 4


def test_a_falling_loss_is_waited_for_and_noise_is_no_metric(tmp_path, capsys):
    checkpoint = Checkpoint(tmp_path, "val_bleu", patience=2)
    list(checkpoint.parts(0, 1, 20))
    rows = [{"val_bleu": bleu, "val_loss": loss} for bleu, loss in [(0.4, 6.0), (0, 5.0), (0, 4.0), (0, 3.0), (0, 3.1), (0, 3.2)]]
    assert epochs(checkpoint, *rows) == 4
    assert "stopped     neither bleu nor loss improved for 2 epochs (--patience)" in capsys.readouterr().out


def test_a_stopped_run_goes_on_with_more_patience():
    state = {"best_epoch": 1, "waited": 2, "history": [{"val_loss": loss} for loss in (1.0, 2.0, 3.0)]}
    for patience, finished in ((2, True), (3, False), (None, False)):
        selection = Selection("val_loss", patience)
        selection.load_state_dict(state)
        assert selection.finished == finished


def test_what_a_run_begins_with_is_kept_unless_an_epoch_is_better(tmp_path, capsys):
    for losses, kept, said in (((2.0, 1.5), 7, "what it began with, no epoch is better"), ((2.0, 0.5, 0.9), 2, "epoch 2 of 3")):
        checkpoint, model = Checkpoint(tmp_path, "val_loss", patience=9), compiled()
        model.set_weights([np.full_like(w, 7) for w in model.get_weights()])
        checkpoint.keep_unless_better(model, {"val_loss": 1.0})
        checkpoint.selection.load_state_dict(json.loads(json.dumps(checkpoint.selection.state_dict())))
        assert epochs(checkpoint, *({"val_loss": loss} for loss in losses)) == kept
        assert f"kept        {said}: val_loss" in capsys.readouterr().out
    later = Checkpoint(tmp_path, "val_loss", patience=1)
    later.continue_phase(checkpoint)
    list(later.parts(0, 1, 3))
    assert epochs(later, {"val_loss": 3.0}, {"val_loss": 0.1}) == 2 and later.selection.finished
    assert "stopped     neither loss nor loss improved" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["val_loss", "val_perplexity", "val_bits_per_character", "val_nll_per_frame"])
def test_some_metrics_are_better_small(tmp_path, name):
    assert epochs(Checkpoint(tmp_path, name), *({"val_loss": 1.0, name: value} for value in (3.0, 2.0, 4.0))) == 2


def test_nan_is_worse_than_anything(tmp_path):
    assert epochs(Checkpoint(tmp_path), *({"val_accuracy": v, "val_loss": 1.0} for v in (np.nan, 0.1, np.nan))) == 2


def test_an_unknown_monitor_is_named(tmp_path):
    with pytest.raises(DataError, match="--monitor f1: no such validation metric; there are accuracy, loss"):
        epochs(Checkpoint(tmp_path, "val_f1"), {"loss": 1.0, "val_accuracy": 0.5, "val_loss": 1.0})


def test_a_model_no_better_than_a_constant_guess_is_refused(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    epochs(checkpoint, {"val_accuracy": 0.5, "val_loss": 0.8})
    with pytest.raises(DataError, match=r"no better than a constant guess \(accuracy 0.5 against 0.5, loss 0.8 against 0.693\)"):
        checkpoint.selection.refuse_worse_than({"val_accuracy": 0.5, "val_loss": 0.693})
    checkpoint.selection.history[0]["val_accuracy"] = float(np.float32(16 / 30))  # rounds up
    with pytest.raises(DataError, match="no better than a constant guess"):
        checkpoint.selection.refuse_worse_than({"val_accuracy": 16 / 30, "val_loss": 0.693})
    checkpoint.selection.refuse_worse_than({"val_accuracy": 0.4, "val_loss": 0.693})
    checkpoint.selection.refuse_worse_than({"val_loss": 0.81})


# -- the moving average


def test_the_moving_average_is_found_inside_a_loss_scaling_optimizer():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(keras.optimizers.LossScaleOptimizer(moving_average(keras.optimizers.SGD)(1.0, use_ema=True)), "mse")
    for _ in range(2):
        model.train_on_batch(np.ones((1, 1)), np.ones((1, 1)))
    last = model.get_weights()[0]
    with averaged_weights(model):
        averaged = model.get_weights()[0]
    assert not np.array_equal(averaged, last)
    np.testing.assert_array_equal(model.get_weights()[0], last)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_moving_average_of_a_short_run_is_not_its_start(jit_compile):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    optimizer = moving_average(keras.optimizers.SGD)(1.0, use_ema=True, ema_momentum=0.999)
    model.compile(optimizer, lambda y, p: -p, jit_compile=jit_compile)  # each step adds 1 to the weight
    expected = 0.0
    for step in range(6):
        model.train_on_batch(np.ones((1, 1)), np.ones((1, 1)))
        momentum = min(0.999, step / (9 + step))
        expected = momentum * expected + (1 - momentum) * (step + 1)
    with averaged_weights(model):
        np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-6)
    assert expected > 3  # of 6; with the full momentum 1.01
    assert type(optimizer).from_config(optimizer.get_config()).ema_momentum == 0.999


def test_what_is_validated_is_what_is_kept(tmp_path):
    """The averaged weights, in the log and in the best weights; training continues from the last ones."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(moving_average(keras.optimizers.SGD)(0.1, use_ema=True, ema_momentum=0.9), "mse")
    checkpoint = Checkpoint(tmp_path, monitor="val_loss")
    x, y = np.ones((6, 2), "float32"), np.ones((6, 1), "float32")
    last = []
    remember = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: last.append(model.evaluate(x, y, verbose=0)))
    fit(model, checkpoint, callbacks=[AveragedValidation(), remember], validation_data=(x, y), epochs=1)
    (row,) = checkpoint.selection.history
    model.set_weights(checkpoint.best_weights)
    assert row["val_loss"] == pytest.approx(model.evaluate(x, y, verbose=0)) and last[0] < row["val_loss"]


@pytest.mark.parametrize("monitor", ["val_loss", "val_perplexity", "val_accuracy", "val_bleu"])
def test_an_epoch_with_nan_is_the_worst(monitor):
    nan, good, better = float("nan"), {"val_loss": 2.0}, {"val_loss": 1.0}
    selection = Selection(monitor, patience=2)
    for row in ({"val_loss": nan}, good, {"val_loss": nan}, better):
        lower = monitor in ("val_loss", "val_perplexity")
        selection.add({monitor: row["val_loss"] if lower else 30 / row["val_loss"], **row})
    assert selection.best_epoch == 4 and selection.waited == 0 and not selection.finished


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"config": null}'])
def test_a_config_that_is_none_of_a_run_is_told_in_a_line(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    config = SentimentConfig(run_dir=str(tmp_path), resume=True)
    with pytest.raises(DataError, match=r"config.json: is not there, or none of a run. Start a new run, or put back the file"):
        open_run("sentiment_classification", config, {}, Workers())
