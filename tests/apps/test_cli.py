"""The command line: flags, presets, files of flags, and `--help`."""

import argparse
import dataclasses
import io
import json
import os
import re
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from apps.common import cli
from apps.image_captioning.config import Config as CaptioningConfig
from apps.music_generation.config import RollConfig, TuneConfig
from apps.sentiment_classification.config import Config as SentimentConfig
from apps.translation.config import Config as TranslationConfig
from apps.translation.config import preset as translation_preset
from data_pipelines.sources import DataError
from tests.apps import helpers

CONFIGS = {
    "sentiment": SentimentConfig,
    "translation": TranslationConfig,
    "captioning": CaptioningConfig,
    "tunes": TuneConfig,
    "rolls": RollConfig,
}


@dataclass(frozen=True)
class Config:
    rate_limit: Annotated[float, "a number"] = 0.5
    cell: Annotated[Literal["gru", "lstm"], "a choice"] = "gru"
    quiet: Annotated[bool, "a switch"] = False
    run: Annotated[str | None, "a folder"] = None
    exact: Annotated[bool | None, "a switch that has three places"] = None


def test_flags_fill_the_config():
    assert cli.parse_config(Config, "x", arguments=[]) == Config()
    got = cli.parse_config(Config, "x", arguments=["--rate-limit", "2", "--cell", "lstm", "--quiet", "--run", "r"])
    assert got == Config(2.0, "lstm", True, "r")
    assert cli.parse_config(Config, "x", arguments=["--exact"]).exact is True
    assert cli.parse_config(Config, "x", arguments=["--no-exact"]).exact is False


@pytest.mark.parametrize("arguments", [["--unknown", "1"], ["--cell", "rnn"], ["--rate", "1"], ["--rate-limit", "x"]])
def test_unknown_flags_and_values_fail_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.parse_config(Config, "x", arguments=arguments)
    assert caught.value.code == 2


def test_what_is_typed_wins_over_a_preset_even_where_it_is_the_default():
    def preset(config):
        return {"rate_limit": 0.9, "cell": "lstm" if config.quiet else "gru"}

    assert cli.parse_config(Config, "x", preset, ["--quiet"]) == Config(0.9, "lstm", True)
    assert cli.parse_config(Config, "x", preset, ["--rate-limit", "0.5", "--cell", "gru", "--quiet"]) == Config(0.5, "gru", True)


@pytest.mark.parametrize("value", ["1", "-0.1", "nan", "inf"])
def test_a_value_outside_its_range_is_refused(value):
    @dataclass(frozen=True)
    class Limited:
        rate_limit: Annotated[float, "a rate", "[0, 1)"] = 0.5

    with pytest.raises(DataError, match=r"--rate-limit .*: expected a number in \[0, 1\). Leave it out for the default, 0.5"):
        cli.parse_config(Limited, "x", arguments=["--rate-limit", value])
    with pytest.raises(DataError):
        cli.check_ranges(Limited(float(value)))


def test_wrong_input_is_one_line_and_exit_2(capsys):
    def main():
        raise DataError("a.tsv: row 3: bad. Mend it.")

    with pytest.raises(SystemExit) as caught:
        cli.run(main)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: a.tsv: row 3: bad. Mend it.\n"


def test_what_is_read_from_standard_input_and_typed_is_utf_8(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("a\nb\n"))
    assert cli.read_inputs(["x", "-"]) == ["x", "a", "b"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), "utf-8"))
    for text in ("-", os.fsdecode(b"caf\xe9")):
        with pytest.raises(DataError, match=r"the input: not UTF-8 \(byte 0xe9\)\. Convert it: iconv"):
            cli.read_inputs([text])


# -- files of flags


def config_of(file, *typed, content=None, preset=lambda config: {}):
    if content is not None:
        file.write_text(content)
    return cli.parse_config(Config, "x", preset, ["--config", str(file), *typed])


def test_typed_wins_over_the_file_the_file_over_the_preset_the_preset_over_the_default(tmp_path):
    def preset(config):
        return {"rate_limit": 0.1, "cell": "lstm", "run": "of " + config.cell}

    file = tmp_path / "flags.json"
    assert config_of(file, content="{}", preset=preset) == Config(0.1, "lstm", False, "of gru")
    content = json.dumps({"rate-limit": 0.2, "cell": "gru", "quiet": True})
    assert config_of(file, content=content, preset=preset) == Config(0.2, "gru", True, "of gru")
    typed = ["--rate-limit", "0.3", "--no-quiet", "--run", "r"]
    assert config_of(file, *typed, preset=preset) == Config(0.3, "gru", False, "r")


def test_a_whole_number_and_null_are_values_too(tmp_path):
    assert config_of(tmp_path / "flags.json", content='{"rate_limit": 1, "run": null}') == Config(1.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"epochs": 3}', "no flag 'epochs'. --help lists them."),
        ('{"config": {"epochs": 3}}', "no flag 'epochs'"),
        ('{"rate_limit": "0.2"}', "rate_limit is '0.2'; expected float"),
        ('{"rate_limit": true}', "rate_limit is True; expected float"),
        ('{"rate_limit": null}', "rate_limit is None; expected float"),
        ('{"cell": "rnn"}', "cell is 'rnn'; expected gru or lstm"),
        ('{"quiet": 1}', "quiet is 1; expected bool"),
        ('{"run": 3}', "run is 3; expected str or NoneType"),
        ("[3]", "can't be read as flags"),
        ("3", "can't be read as flags"),
        ('{"config": 3}', "can't be read as flags"),
        ("{", "can't be read as flags"),
        ("\udc80", "can't be read as flags"),
        (None, "can't be read as flags (.*No such file"),
    ],
)
def test_a_file_that_holds_no_such_flags_is_told(content, message, tmp_path):
    file = tmp_path / "flags.json"
    if content is not None:
        file.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DataError) as caught:
        config_of(file)
    assert re.match(rf"--config {file}: {re.escape(message).replace(re.escape('.*'), '.*')}", str(caught.value))


def test_a_value_of_a_file_outside_its_range_is_refused(tmp_path):
    (tmp_path / "flags.json").write_text('{"epochs": -1}')
    for config in CONFIGS.values():
        with pytest.raises(DataError, match=r"--epochs -1: expected a number in \[[01], inf\)"):
            cli.parse_config(config, "x", arguments=["--config", str(tmp_path / "flags.json")])


# -- the flags of the applications


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_help_shows_every_flag_once_below_a_title_and_what_matters_first(config, capsys):
    with pytest.raises(SystemExit) as end:
        cli.parse_config(config, "x", arguments=["--help"])
    assert end.value.code == 0
    _, options, *groups = re.split(r"^(\S.*):\n", capsys.readouterr().out, flags=re.M)
    assert options == "options"
    flags = [re.findall(r"^  (?:-h, )?--([\w-]+)", text, flags=re.M) for text in groups[::2]]
    titles = groups[1::2]
    assert flags[0] == ["help", "config"]
    assert titles[0] == "the flags that matter first" and flags[1] == [name.replace("_", "-") for name in config.first]
    assert len(set(titles)) == len(titles) and all(flags)
    shown = sorted(flag.replace("-", "_") for group in flags[1:] for flag in group)
    assert shown == sorted(field.name for field in dataclasses.fields(config))


FLAGS = [(config, flags) for config in CONFIGS.values() for flags in ([], ["--quick"], ["--data", "own.tsv"])]


@pytest.mark.parametrize("config, flags", [*FLAGS, (TranslationConfig, ["--preset", "sutskever"])])
def test_every_default_and_preset_lies_in_its_range_and_is_of_its_type(config, flags, tmp_path):
    found = cli.parse_config(config, "x", sys.modules[config.__module__].preset, flags)
    assert (found == config()) == (flags == [] and config is not CaptioningConfig)  # whose embedded scenes have a preset
    (tmp_path / "flags.json").write_text(json.dumps(dataclasses.asdict(found)))
    assert cli.parse_config(config, "x", arguments=["--config", str(tmp_path / "flags.json")]) == found


@pytest.mark.parametrize(
    "kind, interval, good, bad", [(int, "[1, 5)", "4", ["5", "0", "2.5", "x"]), (float, "(0, 1]", "1", ["0", "nan"])]
)
def test_numbers_of_other_commands_are_checked_too(kind, interval, good, bad):
    assert cli.number_type(kind, interval)(good) == kind(good)
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=re.escape(f"{text}: expected ")):
            cli.number_type(kind, interval)(text)


def test_a_typed_quick_wins_over_the_flags_of_a_run(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"config": dataclasses.asdict(TranslationConfig(units=77))}))
    config = cli.parse_config(TranslationConfig, "x", translation_preset, ["--config", str(file), "--preset", "sutskever"])
    assert (config.preset, config.cell, config.units) == ("sutskever", "lstm", 1_000)
    config = cli.parse_config(TranslationConfig, "x", translation_preset, ["--config", str(file), "--quick", "--units", "5"])
    assert config.units == 5 and config.epochs == translation_preset(config)["epochs"]
    assert cli.parse_config(TranslationConfig, "x", translation_preset, ["--config", str(file)]).units == 77


# -- the flags of the run that continues


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs below runs/translation/; the later one sorts first."""
    monkeypatch.chdir(tmp_path)
    for seconds, name in ((1, "z"), (2, "a")):
        file = tmp_path / "runs" / "translation" / name / "config.json"
        file.parent.mkdir(parents=True)
        config = TranslationConfig(units=70 + seconds, run_dir="elsewhere", strategy="mirrored", workers=3)
        file.write_text(json.dumps({"config": dataclasses.asdict(config)}))
        os.utime(file, (seconds, seconds))


def test_a_resumed_run_has_its_own_flags_and_typed_ones_win(runs):
    newest = cli.parse_config(TranslationConfig, "x", translation_preset, ["--resume"])
    wanted = TranslationConfig(units=72, run_dir="runs/translation/a", strategy="mirrored", workers=3, resume=True)
    assert newest == wanted
    line = ["--resume", "--run-dir", "runs/translation/z", "--epochs", "9", "--strategy", "none"]
    named = cli.parse_config(TranslationConfig, "x", translation_preset, line)
    changed = {"units": 71, "run_dir": "runs/translation/z", "epochs": 9, "strategy": "none", "workers": None}
    assert named == dataclasses.replace(wanted, **changed)


def test_there_must_be_a_run_to_resume(runs):
    for config, line, place in (
        (SentimentConfig, [], "runs/sentiment_classification"),
        (TranslationConfig, ["--run-dir", "runs/other"], "runs/other"),
    ):
        with pytest.raises(DataError, match=f"{place}: no run to resume. Leave out --resume, or name its folder"):
            cli.parse_config(config, "x", arguments=["--resume", *line])
    several = ["--resume", "--strategy", "multiworker"]  # whose folder another machine may have
    assert cli.parse_config(TranslationConfig, "x", arguments=several).units == TranslationConfig.units


def test_a_resumed_run_knows_what_music_it_is(tmp_path):
    config = dataclasses.asdict(RollConfig(music="rolls", frame="independent"))
    (tmp_path / "config.json").write_text(json.dumps({"config": config}))
    found = helpers.parsed("music_generation", "--resume", "--run-dir", tmp_path)
    assert found == RollConfig(music="rolls", frame="independent", resume=True, run_dir=str(tmp_path))
