"""Follow mode: one long-lived process that takes files of the log as they land, learns them and publishes the changes.

The order makes it safe to kill at any moment. What was taken is known by a ledger that lies beside the checkpoint that learned
it; both appear by one rename. A process that starts again goes on from there and takes the files after it once more: the model
that had learned them is gone, so nothing counts twice. What is published is known by its content, so the next delta leads from
what servers have to what the process has, whatever was lost between.
"""

from __future__ import annotations

import fcntl
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from compression.delta.from_learner import live_model, stored_as
from compression.model import CompactModel
from features.errors import RetryableError, UnsoundError
from pipelines.config import Config
from pipelines.follow.folders import appearing, keep_latest, numbered, numbers
from pipelines.follow.journal import Journal
from pipelines.follow.ledger import Ledger
from pipelines.follow.published import opened
from pipelines.follow.raw_files import landed
from pipelines.follow.records import Judge, Judged, in_order_of_time
from pipelines.store.artifacts import Store
from pipelines.store.lineage import read_by, sound_checkpoint
from training.data.examples import Examples, examples_of
from training.fit.checkpoints import read_description
from training.fit.following import BatchFigures, Follower
from training.fit.learners import Recipe
from training.packed.matrix import Form

_CHECKPOINT, _STATES, _KEPT_STATES = "checkpoint", "state", 2


@dataclass(frozen=True)
class Job:
    """What to follow: the configuration, the workspace to start from, the folder to watch, the folder to publish to."""

    config: Config
    store: Store
    watch: Path
    out: Path


class Follow:
    """A process that follows.

    Args:
        job: what to do.
        tell: gets a line for a person now and then.

    Raises:
        RetryableError: another process follows into the same folder.
        InputError: the checkpoint or what lies in `out` cannot be used.
    """

    def __init__(self, job: Job, tell: Callable[[str], None]) -> None:
        self._job, self._tell, self._settings = job, tell, job.config.follow
        job.out.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(job.out)
        self._judge = Judge(job.config.source, job.config.features, job.config.training.weight)
        self.follower, self.ledger = self._resumed()
        self._published, trouble = opened(job.out)
        self._journal = Journal(job.out, self.ledger.batch)
        self._saved = self.ledger.batch
        if trouble:
            tell(
                f"what was published cannot be read, servers will load the next full export: {trouble}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.close()

    def run(self, stop: threading.Event, once: bool = False) -> None:
        """Take what lands until `stop` is set; with `once`, until nothing more is there. Everything is saved at the end.

        Raises:
            UnsoundError: a micro-batch is not fit to be learned or published.
            InputError: the watched folder is not there.
        """
        if self.follower.has_begun:
            self._publish({"batch": self.ledger.batch, "files": []})
        while not stop.is_set():
            started = time.monotonic()
            files = self._untaken()
            if files:
                self.take(files)
            elif once:
                break
            if not once:
                stop.wait(max(0.0, self._settings.every_s - (time.monotonic() - started)))
        if self._saved < self.ledger.batch:
            self.save()
        self._tell(f"stopped after micro-batch {self.ledger.batch}: {self._counts()}")

    def take(self, files: Mapping[str, Path]) -> None:
        """Learn and publish files, by name, as one micro-batch."""
        judged = {name: self._judge.judge(path) for name, path in files.items()}
        self._journal.quarantine({name: file.quarantined for name, file in judged.items()})
        kept = in_order_of_time([file.kept for file in judged.values()])
        figures, seconds = None, 0.0
        if kept.num_rows:
            config = self._job.config
            examples = examples_of(
                kept,
                self._job.watch,
                config.features,
                config.graph.relations,
                config.training.weight,
            )
            figures, seconds = self._learn(examples, files)
        rows = {name: file.rows_in for name, file in judged.items()}
        self.ledger = self.ledger.after(rows, kept.num_rows, self.follower.day)
        told = {"batch": self.ledger.batch, "files": list(judged)}
        change = self._publish(told) if figures else {}
        self._report(judged, figures, seconds, change)
        if self.ledger.batch % self._settings.full_every == 0:
            self.save()

    def save(self) -> None:
        """Let keys go that the eviction names, publish that, and write the learner, the ledger and a full export."""
        self.follower.learners.evict()
        self.ledger = self.ledger.without_removed(landed(self._job.watch))
        with appearing(numbered(self._job.out / _STATES, self.ledger.batch)) as out:
            self.follower.save(out / _CHECKPOINT)
            self.ledger.write(out)
        keep_latest(self._job.out / _STATES, _KEPT_STATES)
        self._saved = self.ledger.batch
        if self.follower.has_begun:
            self._publish({"batch": self.ledger.batch, "files": []})
            size = self._published.full(self._model())
            self._tell(f"full export {self._published.number}: {size:,} bytes")

    def _untaken(self) -> dict[str, Path]:
        """The next files that are not taken, as many as a micro-batch may have."""
        files = [
            (name, path)
            for name, path in landed(self._job.watch).items()
            if name not in self.ledger.taken
        ]
        return dict(files[: self._settings.max_files])

    def _learn(self, examples: Examples, files: Iterable[str]) -> tuple[BatchFigures, float]:
        started = time.perf_counter()
        scores = self.follower.score(examples)
        figures = (
            BatchFigures.of(examples.label, scores)
            if scores is not None
            else BatchFigures.unscored(examples.label)
        )
        named = ", ".join(files)
        self._refuse_absurd(figures, named)
        try:
            self.follower.learn(examples, scores)
        except UnsoundError as error:
            raise UnsoundError(
                f"micro-batch {self.ledger.batch + 1} ({named}) is not published, servers keep the last good state: {error}. "
                f"Move the files away and start again: it goes on from the checkpoint of micro-batch {self._saved}"
            ) from error
        return figures, time.perf_counter() - started

    def _refuse_absurd(self, figures: BatchFigures, named: str) -> None:
        """Stop before a batch is learned whose clicks are far from what the model expects; what was learned before is saved."""
        least, most = sorted((figures.clicks, figures.expected_clicks))
        is_absurd = (
            most >= self._settings.gate_clicks and least * self._settings.calibration_within < most
        )
        if math.isnan(figures.expected_clicks) or not is_absurd:
            return
        if self._saved < self.ledger.batch:
            self.save()
        raise UnsoundError(
            f"micro-batch {self.ledger.batch + 1} ({named}) has {figures.clicks} clicks in {figures.rows} rows where the model "
            f"expects {figures.expected_clicks:.0f}, beyond follow.calibration_within: it is neither learned nor published, and "
            f"servers keep the last good state. Look at the files; move them away, or raise the limit, and start again"
        )

    def _publish(self, told: Mapping[str, object]) -> Mapping[str, int]:
        model = self._model()
        if self._published.follows(model):
            return self._published.delta(model, told)
        return {"full_export_bytes": self._published.full(model)}

    def _model(self) -> CompactModel:
        live = live_model(
            self.follower.learners.model, self.follower.description(), self.follower.encodings
        )
        return stored_as(live, Form(self._settings.form))

    def _resumed(self) -> tuple[Follower, Ledger]:
        config, states = self._job.config, numbers(self._job.out / _STATES)
        recipe = Recipe(config.features, config.model, config.training, config.graph.relations)
        if not states:
            return _begun(self._job.store, recipe, self._tell), Ledger()
        folder = numbered(self._job.out / _STATES, states[-1])
        ledger = Ledger.read(folder)
        self._tell(f"goes on after micro-batch {ledger.batch}")
        if not ledger.rows_kept:
            return Follower.fresh(recipe), ledger
        return Follower.restored(recipe, folder / _CHECKPOINT, ledger.day), ledger

    def _report(
        self,
        judged: Mapping[str, Judged],
        figures: BatchFigures | None,
        seconds: float,
        change: Mapping[str, int],
    ) -> None:
        entry = {
            "batch": self.ledger.batch,
            "files": list(judged),
            "rows_in": sum(file.rows_in for file in judged.values()),
            "quarantined": sum(len(file.quarantined) for file in judged.values()),
            **(asdict(figures) if figures else {}),
            "seconds": seconds,
            "content": self._published.number,
            **change,
            "published_s": time.time(),
        }
        self._journal.batch(entry)
        auc = f", AUC {figures.auc:.4f}, calibration {figures.calibration:.2f}" if figures else ""
        self._tell(
            f"micro-batch {self.ledger.batch}: {entry['rows_in']:,} rows{auc}; content {self._published.number}"
        )

    def _counts(self) -> str:
        ledger = self.ledger
        return f"{ledger.rows_in:,} rows in = {ledger.rows_kept:,} kept + {ledger.rows_quarantined:,} quarantined"


def _begun(store: Store, recipe: Recipe, tell: Callable[[str], None]) -> Follower:
    """The learners of the workspace's last sound checkpoint, its held-out slice learned too; fresh ones without any."""
    checkpoint = store.latest_before(
        "checkpoint", date.max, lambda version: sound_checkpoint(store, version)
    )
    if checkpoint is None:
        tell(f"no checkpoint in {store.workspace}: begins with nothing learned")
        return Follower.fresh(recipe)
    follower = Follower.restored(recipe, checkpoint.path)
    partition = read_by(store, checkpoint, "impressions")
    fraction = read_description(checkpoint.path).training.holdout_fraction
    rows = follower.learn_heldout(partition.path, fraction) if partition else 0
    tell(
        f"begins from the checkpoint of {checkpoint.day}, with the {rows:,} impressions that it had held out"
    )
    return follower


def _locked(out: Path) -> IO[str]:
    """Hold the folder for this process; the system lets go when the process ends, however it does."""
    lock = (out / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise RetryableError(
            f"{out}: another process follows into this folder; end it, or give another --out"
        ) from error
    return lock
