"""Train a model of piano rolls: data, model, training, export, metrics, an example."""

from functools import partial

import keras

from apps.common import cli
from apps.common.evaluation import write_training_rows
from apps.common.export.model_card import write_card
from apps.common.export.saved_model import load_export, new_version
from apps.common.training import runs
from apps.common.training.checkpoints import Checkpoint
from apps.common.training.init_from import begin_with, initial_run
from apps.common.training.validation import Validation
from apps.common.training.workers import Workers
from apps.music_generation.config import APPLICATION, RollConfig, StackFlags
from apps.music_generation.rolls.evaluate import check_lengths, evaluate
from apps.music_generation.rolls.export import write
from apps.music_generation.rolls.loss import FrameLoss, constant_frame_loss, count_frames, frame_nats
from apps.music_generation.rolls.model import RollModel
from apps.music_generation.rolls.predict import write_example
from apps.music_generation.shared import DESCRIPTION, report
from data_pipelines.piano_rolls import load_rolls, roll_streams, whole_rolls


def train(config: RollConfig) -> dict[str, float]:
    """Train, export and evaluate; return the validation metrics of the export."""
    workers = Workers(config.strategy, config.workers)
    runs.prepare_device(config)

    # -- data
    initial = initial_run(APPLICATION, config)
    rolls = load_rolls(config.data, config.frame_beats)
    judged = [split for split in rolls.splits if split != "train"]
    check_lengths(rolls, judged)
    streams = partial(
        roll_streams,
        rolls.splits["train"],
        batch_size=config.batch_size,
        steps=config.bptt_steps,
        epochs=config.epochs,
        seed=config.seed,
        transpose_prob=config.transpose_prob,
    )
    held_out = whole_rolls(rolls.splits["validation"])

    # -- model
    model = RollModel(frame=config.frame, hidden=config.hidden, **cli.flags_of(config, StackFlags))
    model.build()
    begin_with(model, initial)
    folder = runs.open_run(APPLICATION, config, {"data": rolls.describe()}, workers)
    rolls.write_skipped(folder / "skipped.tsv")

    # -- training
    optimizer = workers.optimizer(keras.optimizers.Adam)
    steps = config.epochs * streams().steps_per_epoch
    model.compile(optimizer(**runs.optimizer_options(config, steps)), FrameLoss(), jit_compile=workers.jit_compile)
    measure = Validation(held_out, frame_nats, lambda nats: {"nll_per_frame": nats})
    checkpoint = Checkpoint(folder / "checkpoints", "val_nll_per_frame", config.patience)
    restored = checkpoint.restore(model, streams().dataset) if config.resume else None
    model.set_workers(workers)
    runs.log_summary(config, model, folder, rolls.summary() | workers.summary(config.batch_size, "streams"))
    start_step = workers.broadcast_state(model, checkpoint, restored)
    runs.fit(
        model,
        streams,
        start_step,
        config.epochs,
        workers=workers,
        checkpoint=checkpoint,
        folder=folder,
        plot=["loss", "nll_per_frame"],
        size=count_frames,
        callbacks=[measure],
    )
    if not workers.is_chief:
        return workers.wait_for_chief()
    checkpoint.restore_best()
    runs.save_model(model, folder / "model.keras")

    # -- export, and the metrics of what was exported
    if not config.force_export:
        checkpoint.selection.refuse_worse_than({"val_loss": constant_frame_loss(held_out)})
    with new_version(config.export_dir, config.export) as version:
        write(version.folder, folder, model)
        write_training_rows(version.folder, folder, rolls.training_hashes())
        served = load_export(version.folder)
        metrics = evaluate(served, rolls, judged)
        report(metrics, folder)
        size = write_card(version.folder, folder, APPLICATION, DESCRIPTION)
    files = write_example(served, rolls.splits["validation"][0], folder / "example", config.frame_beats)
    print(f"\nmusic   {', '.join(map(str, files))}\nrun     {runs.finish(folder)}\nexport  {version}  {size}")
    return metrics["validation"]
