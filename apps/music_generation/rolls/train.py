"""Train a model of piano rolls: data, model, training, export, metrics, an example."""

from functools import partial
from pathlib import Path

import keras

from apps.common import runs
from apps.common.checkpoints import Checkpoint
from apps.common.evaluation import write_training_rows
from apps.common.export import load_export, new_version
from apps.common.model_card import write_card
from apps.common.workers import Workers
from apps.music_generation.config import RollConfig
from apps.music_generation.rolls.evaluate import evaluate
from apps.music_generation.rolls.export import write
from apps.music_generation.rolls.loss import FrameLoss, constant_frame_loss, count_frames, frame_nats
from apps.music_generation.rolls.model import RollModel
from apps.music_generation.rolls.predict import write_example
from apps.music_generation.shared import DESCRIPTION, report
from apps.music_generation.validation import LikelihoodValidation
from data_pipelines.piano_rolls import load_rolls, roll_streams, whole_rolls


def train(config: RollConfig) -> dict[str, float]:
    """Train, export and evaluate; return the validation metrics of the export."""
    workers = Workers(config.strategy, config.workers)
    device = runs.prepare_device(config.seed, config.precision)

    # -- data
    rolls = load_rolls(config.data, config.frame_beats)
    streams = partial(
        roll_streams,
        rolls.splits["train"],
        rows=config.batch_size,
        steps=config.bptt_steps,
        seed=config.seed,
        transposed=config.transpose_prob,
    )
    _, steps = streams(batches=1)
    held_out = whole_rolls(rolls.splits["validation"])

    # -- model
    model = RollModel(frame=config.frame, hidden=config.hidden, **config.stack())
    model.build()
    folder = runs.open_run("music_generation", config, {"data": rolls.describe()}, workers)
    rolls.write_left_out(folder / "left_out.tsv")

    # -- training
    options = {"global_clipnorm": config.clip_norm, "use_ema": config.ema_momentum > 0, "ema_momentum": config.ema_momentum}
    schedule = runs.warm_up_and_decay(config.learning_rate, config.epochs * steps)
    optimizer = workers.optimizer(keras.optimizers.Adam)(schedule, **options)
    model.compile(optimizer, FrameLoss(), jit_compile=workers.jit_compile)
    validation = LikelihoodValidation(held_out, frame_nats, "nll_per_frame")
    checkpoint = Checkpoint(folder / "checkpoints", f"val_{validation.name}", config.patience)
    restored = checkpoint.restore(model, streams(batches=1)[0]) if config.resume else None
    model.set_workers(workers)
    facts = {"device": f"{device}, {config.precision}", **rolls.summary(), "parameters": f"{model.count_params():,}"}
    facts |= workers.facts(config.batch_size, "rows")
    runs.announce({**facts, "run": str(folder)})
    start_step = workers.begin(model, checkpoint, restored)
    for first_step, arguments in checkpoint.parts(start_step, steps, config.epochs):
        model.fit(
            workers.shard(streams(batches=config.epochs * steps, start_batch=first_step)[0], count_frames),
            shuffle=False,
            verbose=0,
            callbacks=workers.callbacks(
                validation,
                checkpoint,
                runs.Progress(folder, checkpoint, ["loss", validation.name]),
                keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False),
            ),
            **arguments,
        )
    if not workers.is_chief:
        return workers.wait_for_chief()
    checkpoint.restore_best()
    model.save(folder / "model.keras")

    # -- export, and the metrics of what was exported
    if not config.force_export:
        checkpoint.refuse_worse_than({"val_loss": constant_frame_loss(held_out)})
    with new_version(Path(config.export_dir), config.export) as version:
        write(version.folder, folder, model)
        write_training_rows(version.folder, rolls.rows("train"))
        served = load_export(version.folder)
        metrics = evaluate(served, rolls, [split for split in rolls.splits if split != "train"])
        report(metrics, folder)
        size = write_card(version.folder, folder, "music_generation", DESCRIPTION)
    files = write_example(served, rolls.splits["validation"][0], folder / "example", config.frame_beats)
    print(f"\nmusic   {', '.join(map(str, files))}\nrun     {folder}\nexport  {version}  {size}")
    return metrics["validation"]
