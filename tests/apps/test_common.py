"""The command line, the metrics and the export folder."""

import json
from dataclasses import dataclass
from typing import Annotated, Literal

import keras
import numpy as np
import pytest

from apps.common import cli
from apps.common.metrics import classification_metrics, expected_calibration_error
from data_pipelines.sources import DataError


@dataclass(frozen=True)
class Config:
    rate_limit: Annotated[float, "a number"] = 0.5
    cell: Annotated[Literal["gru", "lstm"], "a choice"] = "gru"
    resume: Annotated[bool, "a switch"] = False
    run: Annotated[str | None, "a folder"] = None


def test_flags_fill_the_config():
    assert cli.parse_config(Config, "x", arguments=[]) == Config()
    got = cli.parse_config(Config, "x", arguments=["--rate-limit", "2", "--cell", "lstm", "--resume", "--run", "r"])
    assert got == Config(2.0, "lstm", True, "r")


@pytest.mark.parametrize("arguments", [["--unknown", "1"], ["--cell", "rnn"], ["--rate", "1"], ["--rate-limit", "x"]])
def test_unknown_flags_and_values_fail_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.parse_config(Config, "x", arguments=arguments)
    assert caught.value.code == 2


def test_what_is_typed_wins_over_a_preset_even_where_it_is_the_default():
    def preset(config):
        return {"rate_limit": 0.9, "cell": "lstm" if config.resume else "gru"}

    assert cli.parse_config(Config, "x", preset, ["--resume"]) == Config(0.9, "lstm", True)
    assert cli.parse_config(Config, "x", preset, ["--rate-limit", "0.5", "--cell", "gru", "--resume"]) == Config(0.5, "gru", True)


@pytest.mark.parametrize("value", ["1", "-0.1", "nan", "inf"])
def test_a_value_outside_its_range_is_refused(value):
    @dataclass(frozen=True)
    class Limited:
        rate_limit: Annotated[float, "a rate", "[0, 1)"] = 0.5

    with pytest.raises(DataError, match=r"--rate-limit .*: expected a number in \[0, 1\). Leave it out for the default, 0.5"):
        cli.parse_config(Limited, "x", arguments=["--rate-limit", value])
    with pytest.raises(DataError):
        cli.check_ranges(Limited(float(value)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "can't be read as flags"),
        ("[1]", "can't be read as flags"),
        ('{"config": 3}', "can't be read as flags"),
        ('{"lambda": 1}', "no flag 'lambda'"),
        ('{"rate": "0.1"}', "rate is '0.1'; expected float"),
        ('{"rate": NaN}', "--rate nan: expected a number"),
        ('{"rate": 7}', "--rate 7: expected a number"),
    ],
)
def test_a_config_file_is_checked_as_flags_are(text, message, tmp_path):
    @dataclass(frozen=True)
    class Limited:
        rate: Annotated[float, "a rate", "[0, 1)"] = 0.5

    (tmp_path / "config.json").write_text(text)
    with pytest.raises(DataError, match=message):
        cli.parse_config(Limited, "x", arguments=["--config", str(tmp_path / "config.json")])


def test_wrong_input_is_one_line_and_exit_2(capsys):
    def main():
        raise DataError("a.tsv: row 3: bad. Mend it.")

    with pytest.raises(SystemExit) as caught:
        cli.run(main)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: a.tsv: row 3: bad. Mend it.\n"


def test_metrics_of_a_known_case():
    truth = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    metrics = classification_metrics(truth, probabilities)
    assert metrics["accuracy"] == 0.75
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert metrics["roc_auc"] == 1.0
    assert metrics["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.7]).mean())
    json.dumps(metrics)


def test_calibration_error_of_an_overconfident_model():
    probabilities = np.tile([0.95, 0.05], (10, 1))
    assert expected_calibration_error(np.array([0] * 6 + [1] * 4), probabilities) == pytest.approx(0.35)


def test_several_classes():
    rng = np.random.default_rng(0)
    truth = np.arange(60) % 3
    probabilities = rng.dirichlet(np.ones(3), 60)
    metrics = classification_metrics(truth, probabilities)
    assert 0.2 < metrics["roc_auc"] < 0.8 and metrics["examples"] == 60


def test_the_averaged_weights_are_kept_and_the_last_ones_go_on(tmp_path):
    import keras

    from apps.common.training.averages import averaged_weights
    from apps.common.training.checkpoints import Checkpoint

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9), "mse")
    checkpoint = Checkpoint(tmp_path, monitor="loss")
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            last = model.get_weights()
            with averaged_weights(model):
                seen.append((last, model.get_weights()))
            np.testing.assert_array_equal(model.get_weights()[0], last[0])

    x = np.random.default_rng(0).normal(size=(32, 2))
    model.fit(x, x[:, :1], verbose=0, epochs=2, callbacks=[Watch(), checkpoint])
    last, averaged = seen[-1]
    assert np.abs(last[0] - averaged[0]).max() > 1e-4
    np.testing.assert_array_equal(model.get_weights()[0], last[0])  # not the averages, which fit leaves
    checkpoint.best_weights = averaged
    checkpoint.restore_best()
    np.testing.assert_array_equal(model.get_weights()[0], averaged[0])


def test_a_model_file_that_would_run_code_is_refused(tmp_path):
    from apps.common.training.runs import load_model

    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1, output_shape=(2,))(inputs))
    model.save(tmp_path / "model.keras")
    with pytest.raises(DataError, match=r"model\.keras: can't be read \(.*Lambda"):
        load_model(tmp_path)
