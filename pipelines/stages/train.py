"""Stage `train`: warm start from the last sound checkpoint, evaluate it on the day, train on it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import InputError, RetryableError
from features.partition import HOURS_PER_DAY, day_of, end_h, start_h
from pipelines.stages.encodings import encodings_for
from pipelines.stages.stage import Context, Inputs, Metrics, Stage
from pipelines.store.artifacts import Version
from pipelines.store.lease import lease
from pipelines.store.lineage import parent_checkpoint

if TYPE_CHECKING:
    from training.fit.training_loop import Progress


def earlier_statistics(context: Context) -> Inputs:
    """Return the feature statistics of the last day or hour before this one, if there are any."""
    statistics = context.store.latest_before("feature_statistics", context.day)
    return {"statistics": statistics} if statistics else {}


def warm_start(context: Context) -> Inputs:
    """Return the last sound checkpoint before the day or hour and the impressions it is of."""
    store, unvalidated = context.store, context.config.training.unvalidated_parent
    checkpoint = parent_checkpoint(
        store, context.day, context.report, unvalidated=unvalidated, looks_only=context.looks_only
    )
    if checkpoint is None:
        return {}
    # The held-out slice of exactly this version has not been trained on yet. The day's current
    # impressions may be a newer version with another slice.
    trained_on = checkpoint.commit["inputs"]["impressions"]["hash"]
    impressions = store.find("impressions", checkpoint.day, trained_on)
    previous = {"previous_impressions": impressions} if impressions else {}
    return {"checkpoint": checkpoint, **previous}


class Train(Stage):
    """Evaluate yesterday's model on the day, then train on the day.

    Checkpoint, statistics and graph come from days and hours that ended before.
    """

    name = "train"
    artifact = "checkpoint"
    reads = ("impressions", encodings_for, "data_verdict", earlier_statistics, warm_start)
    # `encodings_for` may return the day's own encodings. The day's own statistics are not read, but
    # the DAG keeps the order of the command line.
    after = ("pretrain", "feature-statistics")
    sections = ("features", "model", "training", "graph")
    tracked = ("metrics.json", "quality.json", "progressive.json", "table_statistics.json", "plots")
    pool = "gpu"

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `training.fit.trainer.train_day`; raises InputError if the data failed its gate."""
        from training.fit.trainer import TrainRequest, train_day

        verdict = inputs["data_verdict"]
        if not verdict.metrics["passed"]:
            raise InputError(
                f"data of {context.day} failed its gate; see {verdict.path / 'verdict.json'}"
            )
        config, checkpoint = context.config, inputs.get("checkpoint")
        paths = {name: version.path for name, version in inputs.items()}
        request = TrainRequest(
            schema=config.features,
            model=config.model,
            training=config.training,
            relations=config.graph.relations,
            partition=paths["impressions"],
            previous_partition=paths.get("previous_impressions"),
            previous_checkpoint=paths.get("checkpoint"),
            statistics=paths.get("statistics"),
            encodings=paths.get("encodings"),
            gap_days=gap_days(context, checkpoint),
            begins_day=begins_day(context, checkpoint),
            states=context.states,
        )
        missing = days_missing(context, checkpoint)
        if missing:
            context.report(f"trains over a hole: the {missing:.3g} days before are not trained on")
        batch = config.training.batch_size
        with device(config.training.device, context.report), memory_errors(batch):
            figures = train_day(
                request, out, lambda p: context.report(_format_progress(p)), context.report
            )
        return {**figures, "days_missing": missing}


@contextmanager
def device(wanted: str, report: Callable[[str], None]) -> Iterator[None]:
    """Train on the device that is asked for (`training.device`); hold the GPU, if it is one.

    Raises:
        RetryableError: a GPU is asked for and there is none, or another training holds it for long.
    """
    import tensorflow as tf

    gpus = tf.config.get_visible_devices("GPU")
    if wanted == "cpu":
        tf.config.set_visible_devices([], "GPU")
        gpus = []
    if not gpus:
        if wanted == "gpu":
            raise RetryableError(
                "training.device is gpu, and TensorFlow finds none on this machine "
                "(CUDA_VISIBLE_DEVICES, driver): try again where there is one, or set it to auto"
            )
        yield
        return
    # One training at a time, also of other workspaces: two would share the memory and fail.
    with lease(Path(tempfile.gettempdir()) / "elastic-ctr-gpu", report=report):
        yield


@contextmanager
def memory_errors(batch_size: int) -> Iterator[None]:
    """Raise RetryableError with the batch size to try in place of an error for want of memory.

    The batch is not made smaller here: the model would not be the one that was configured.
    """
    import tensorflow as tf

    try:
        yield
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise RetryableError(
            f"out of memory in training ({said}). Nothing was published. Try again with more "
            f"memory, or with `training.batch_size: {max(1, batch_size // 2)}` (now {batch_size}),"
            " which makes another version"
        ) from error


def gap_days(context: Context, checkpoint: Version | None) -> float:
    """Return the days from the end of the checkpoint's day or hour to the end of this one.

    Between neighbouring days, or without a checkpoint, this is 1.
    """
    return (end_h(context.day) - end_h(checkpoint.day)) / HOURS_PER_DAY if checkpoint else 1


def days_missing(context: Context, checkpoint: Version | None) -> float:
    """Return the days from the end of the checkpoint's day or hour to the start of this one."""
    return max(0, start_h(context.day) - end_h(checkpoint.day)) / HOURS_PER_DAY if checkpoint else 0


def begins_day(context: Context, checkpoint: Version | None) -> bool:
    """Whether the checkpoint has trained on nothing of this calendar day yet."""
    return checkpoint is None or day_of(checkpoint.day) != day_of(context.day)


def _format_progress(progress: Progress) -> str:
    share = f"{progress.done:,} of {progress.total:,} examples"
    speed = f"{progress.examples_per_s:,.0f}/s, {progress.examples_per_cpu_s:,.0f} a CPU-second"
    return f"{progress.phase}: {share}, {speed}, loss {progress.loss:.4f}"
