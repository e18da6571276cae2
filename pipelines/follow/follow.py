"""Follow mode: a long-lived process that trains on log files as they arrive and publishes changes.

It may be killed at any moment:

* The ledger of processed files is saved in the same folder as the learner, and the folder appears
  by one rename. A new process continues from there and processes later files again. The model that
  was trained on them is lost, so no row counts twice.
* Publications are identified by their content. The first delta of a new process is computed from
  the content that servers have, even if the model behind it is lost.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Self

from compression.model import CompactModel
from compression.pruning import live_model, stored_as
from features.errors import InputError, RetryableError, UnsoundError
from features.files import atomic_folder, write_atomically
from pipelines.config import Config
from pipelines.follow.ledger import BatchLog, Ledger
from pipelines.follow.publisher import (
    folder_numbers,
    keep_latest_folders,
    nth_folder,
    open_publisher,
    seal_folder,
    set_aside,
    verify_folder,
)
from pipelines.follow.raw_rows import complete_files, read_bytes
from pipelines.follow.records import (
    DELIVERED_TWICE,
    RecordValidator,
    ValidatedFile,
    in_order_of_time,
)
from pipelines.store.artifacts import Store
from pipelines.store.lineage import input_of, parent_checkpoint
from pipelines.tracking.champion import refresh_blocked
from training.data.examples import Examples, examples_of
from training.fit.checkpoints import read_description
from training.fit.model_and_baseline import LearnerConfig
from training.fit.streaming import BatchFigures, StreamTrainer, local_day
from training.packed.matrix import Form

HEALTH = "health.json"
_CHECKPOINT, _STATES, _KEPT_STATES = "checkpoint", "state", 2


@dataclass(frozen=True)
class FollowJob:
    """What to follow.

    Attributes:
        config: the configuration.
        store: the workspace whose last sound checkpoint is the first model.
        watch: the folder of log files.
        out: the folder to publish to.
    """

    config: Config
    store: Store
    watch: Path
    out: Path


@dataclass(frozen=True)
class _Postponed:
    """A file that could not be read: attempts so far, and when the next one is due (monotonic)."""

    tries: int
    due_s: float


class FollowProcess:
    """Follow mode in this process. A context manager: it locks the folder that it publishes to.

    Args:
        job: what to follow.
        report: receives a line per micro-batch and event.

    Raises:
        RetryableError: another process follows into the same folder.
        InputError: the checkpoint, or the state in `out`, cannot be used.
    """

    def __init__(self, job: FollowJob, report: Callable[[str], None]) -> None:
        self._job, self._settings = job, job.config.follow
        # File names may hold bytes that no terminal can print.
        self._report = lambda line: report(line.encode("utf-8", "backslashreplace").decode())
        job.out.mkdir(parents=True, exist_ok=True)
        # The system releases the lock when the process ends, however it ends.
        self._lock = (job.out / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise RetryableError(
                f"{job.out}: another process follows into this folder; stop it, or choose another "
                "--out"
            ) from error
        config = job.config
        self._validator = RecordValidator(config.source, config.features, config.training.weight)
        self._postponed: dict[str, _Postponed] = {}
        self.follower, self.ledger = self._restore()
        self._publisher, damage = open_publisher(job.out)
        self._log = BatchLog(job.out, self.ledger.batch)
        self._saved_batch = self.ledger.batch
        if damage:
            report(
                "the publications cannot be read, servers will load the next full export instead: "
                + damage
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
        """Process files as they arrive, and save everything at the end.

        Args:
            stop: ends the run after the current micro-batch.
            once: end when no file is left.

        Raises:
            UnsoundError: a micro-batch is not fit for training or publication.
            InputError: the watched folder does not exist.
        """
        if self.follower.has_begun:
            # After a kill, servers may have a newer model than the restored one: the files after
            # its checkpoint are processed again.
            self._publish([])
        while not stop.is_set():
            started = time.monotonic()
            files = self._new_files()
            self._write_health(files)
            due = [name for name in files if self._is_due(name)][: self._settings.max_files]
            if due:
                self.process({name: files[name] for name in due})
            elif once and not self._postponed:
                break
            if not (once and due):
                stop.wait(max(0.0, self._settings.every_s - (time.monotonic() - started)))
        if self._saved_batch < self.ledger.batch:
            self.save()
        self._write_health(self._new_files())
        ledger = self.ledger
        self._report(
            f"stopped after micro-batch {ledger.batch}: {ledger.rows_in:,} rows in = "
            f"{ledger.rows_kept:,} kept + {ledger.rows_quarantined:,} quarantined"
        )

    def process(self, files: Mapping[str, Path]) -> None:
        """Train on files, by name, as one micro-batch, and publish the change."""
        # 1. Read the files and validate their rows.
        contents: dict[str, str] = {}
        read = {name: self._read(name, path, contents) for name, path in files.items()}
        validated = {name: file for name, file in read.items() if file}
        if not validated:
            return
        examples = self._examples(validated.values())
        self._log.quarantine({name: file.quarantined for name, file in validated.items()})

        # 2. Score them with the model before this micro-batch, then train on them.
        figures, seconds = None, 0.0
        if examples:
            started = time.perf_counter()
            figures = self._train(examples, ", ".join(validated))
            seconds = time.perf_counter() - started
        rows_in = {name: file.rows_in for name, file in validated.items()}
        kept = len(examples) if examples else 0
        ledger = self.ledger.after(rows_in, kept, self.follower.day, contents)
        # A file that was removed before it could be read may come back under its name.
        missing = {name for name in validated if not files[name].exists()}
        self.ledger = ledger.without_removed(ledger.files.keys() - missing) if missing else ledger

        # 3. Publish and report. The log is written last: it lists what servers can load.
        change = self._publish(list(validated)) if figures else {}
        entry = {
            "batch": self.ledger.batch,
            "files": list(validated),
            "rows_in": sum(rows_in.values()),
            "quarantined": sum(len(file.quarantined) for file in validated.values()),
            **(asdict(figures) if figures else {}),
            "seconds": seconds,
            "content": self._publisher.number,
            **change,
            "published_s": time.time(),
        }
        self._log.add(entry)
        auc = f", AUC {figures.auc:.4f}, calibration {figures.calibration:.2f}" if figures else ""
        self._report(
            f"micro-batch {self.ledger.batch}: {entry['rows_in']:,} rows{auc}; "
            f"content {self._publisher.number}"
        )
        if self.ledger.batch % self._settings.full_every == 0:
            self.save()

    def save(self) -> None:
        """Run eviction, publish its result, and write the learner, the ledger and a full export."""
        self.follower.learners.evict()
        self.ledger = self.ledger.without_removed(complete_files(self._job.watch))
        states = self._job.out / _STATES
        with atomic_folder(nth_folder(states, self.ledger.batch)) as out:
            self.follower.save(out / _CHECKPOINT)
            replace(self.ledger, has_begun=self.follower.has_begun).write(out)
            seal_folder(out, {})
        keep_latest_folders(states, _KEPT_STATES)
        self._saved_batch = self.ledger.batch
        if self.follower.has_begun:
            # Running servers take the delta; the full export is for servers that start later.
            self._publish([])
            size = self._publisher.publish_full(self._model())
            self._report(f"full export {self._publisher.number}: {size:,} bytes")

    def _write_health(self, waiting: Mapping[str, Path]) -> None:
        """Write how far the process is; readers compare the times with their clock."""
        now, ledger, arrived = time.time(), self.ledger, []
        for path in waiting.values():
            with suppress(OSError):  # removed meanwhile
                arrived.append(path.stat().st_mtime)
        document = {
            "written_s": now,
            "batch": ledger.batch,
            "number": self._publisher.number,
            "version": self._publisher.version,
            "rows": self._publisher.rows,
            "rows_in": ledger.rows_in,
            "rows_kept": ledger.rows_kept,
            "rows_quarantined": ledger.rows_quarantined,
            "last_file_s": self._log.last_s,
            "last_published_s": self._publisher.published_s,
            "files_waiting": len(waiting),
            "files_postponed": len(self._postponed),
            "lag_s": max(0.0, now - min(arrived, default=now)),
        }
        write_atomically(self._job.out / HEALTH, json.dumps(document, indent=1) + "\n")

    def _new_files(self) -> dict[str, Path]:
        """Return the files that are not processed yet, and those that could not be read."""
        watch = self._job.watch
        found = complete_files(watch)
        new = {name: path for name, path in found.items() if name not in self.ledger.files}
        return new | {name: watch / name for name in self._postponed}

    def _is_due(self, name: str) -> bool:
        return name not in self._postponed or self._postponed[name].due_s <= time.monotonic()

    def _read(self, name: str, path: Path, contents: dict[str, str]) -> ValidatedFile | None:
        """Validate a file; return None if the system cannot read it now.

        Args:
            name: its name.
            path: the file.
            contents: receives the digest of its bytes. Has those of this micro-batch.
        """
        try:
            data = read_bytes(path)
            digest = hashlib.blake2b(data, digest_size=16).hexdigest()
            earlier = contents.get(digest) or self.ledger.contents.get(digest)
            if earlier:
                why = f"its content was processed as {earlier}"
                file = self._validator.rejected(path, why, DELIVERED_TWICE)
            else:
                file = self._validator.validate(path, data, self._latest_ms())
                # Files without a row, such as a header alone, are often the same.
                if file.kept.num_rows:
                    contents[digest] = name
        except InputError as error:
            file = self._validator.rejected(path, str(error))
        except (OSError, MemoryError) as error:
            return self._postpone(name, path, error)
        self._postponed.pop(name, None)
        return file

    def _postpone(self, name: str, path: Path, error: Exception) -> ValidatedFile | None:
        """Plan another attempt and return None, or give the file up after the last one."""
        tries = self._postponed[name].tries + 1 if name in self._postponed else 1
        why = f"{type(error).__name__}: {error}"
        if tries < self._settings.read_tries:
            wait_s = self._settings.every_s * 2 ** (tries - 1)
            self._postponed[name] = _Postponed(tries, time.monotonic() + wait_s)
            self._report(f"{name} cannot be read ({why}): tries again in {wait_s:.0f} s")
            return None
        self._postponed.pop(name, None)
        self._report(f"{name} is given up after {tries} attempts: {why}")
        return self._validator.rejected(path, f"given up after {tries} attempts: {why}")

    def _examples(self, files: Iterable[ValidatedFile]) -> Examples | None:
        """Return the examples of the kept rows, in the order of time; None if there are none."""
        config, kept = self._job.config, in_order_of_time([file.kept for file in files])
        relations, weight = config.graph.relations, config.training.weight
        if not kept.num_rows:
            return None
        return examples_of(kept, self._job.watch, config.features, relations, weight)

    def _train(self, examples: Examples, names: str) -> BatchFigures:
        """Train on a micro-batch and return the figures of the model before it."""
        scores = self.follower.score(examples)
        if scores is None:
            figures = BatchFigures.unscored(examples.label)
        else:
            figures = BatchFigures.of(examples.label, scores)
        where = f"micro-batch {self.ledger.batch + 1} ({names})"
        self._check_calibration(figures, where)
        try:
            self.follower.train_on(examples, scores)
        except UnsoundError as error:
            # The learner in memory is of no use any more, so it is not saved.
            raise UnsoundError(
                f"{where} is not published, servers keep the last good state: {error}. Move the "
                "files away and start again: the process continues from the checkpoint of "
                f"micro-batch {self._saved_batch}"
            ) from error
        return figures

    def _check_calibration(self, figures: BatchFigures, where: str) -> None:
        """Raise UnsoundError if clicks are far from what the model expects.

        The micro-batch is not trained on, and what was trained before is saved.
        """
        least, most = sorted((figures.clicks, figures.expected_clicks))
        limit = self._settings.calibration_within
        # A small micro-batch may be far off by chance.
        is_unsound = most >= self._settings.gate_clicks and least * limit < most
        if math.isnan(figures.expected_clicks) or not is_unsound:
            return
        if self._saved_batch < self.ledger.batch:
            self.save()
        raise UnsoundError(
            f"{where} has {figures.clicks} clicks in {figures.rows} rows, the model expects "
            f"{figures.expected_clicks:.0f}; the ratio exceeds follow.calibration_within. It is "
            "neither trained on nor published, servers keep the last good state. Check the files; "
            "move them away, or raise the limit, and start again"
        )

    def _publish(self, files: list[str]) -> Mapping[str, int]:
        """Publish a delta if servers can apply one, else a full export; return its figures."""
        model = self._model()
        if self._publisher.can_publish_delta(model):
            source = {"batch": self.ledger.batch, "files": files}
            return self._publisher.publish_delta(model, source)
        return {"full_export_bytes": self._publisher.publish_full(model)}

    def _model(self) -> CompactModel:
        follower = self.follower
        live = live_model(follower.learners.model, follower.description(), follower.encodings)
        return stored_as(live, Form(self._settings.form))

    def _restore(self) -> tuple[StreamTrainer, Ledger]:
        """Return the learner and ledger of the last process, or those of a first start."""
        config, states = self._job.config, self._job.out / _STATES
        recipe = LearnerConfig(
            config.features, config.model, config.training, config.graph.relations
        )
        numbers = folder_numbers(states)
        if not numbers:
            return self._first_follower(recipe), Ledger()
        for number in numbers[:0:-1]:
            folder = nth_folder(states, number)
            try:
                verify_folder(folder)
            except InputError as error:
                # The files after the state before it are processed again, if they are still there.
                set_aside(folder)
                self._report(f"{error}: continues from the state before it")
            else:
                return self._restored(recipe, folder)
        try:
            verify_folder(nth_folder(states, numbers[0]))
        except InputError as error:
            raise InputError(
                f"{error}, and there is no earlier state. Remove {states} to begin with the last "
                "sound checkpoint of the workspace and all files that are there"
            ) from error
        return self._restored(recipe, nth_folder(states, numbers[0]))

    def _restored(self, recipe: LearnerConfig, folder: Path) -> tuple[StreamTrainer, Ledger]:
        ledger = Ledger.read(folder)
        self._report(f"continues after micro-batch {ledger.batch}")
        checkpoint, has_begun = folder / _CHECKPOINT, ledger.has_begun
        if has_begun is None:
            has_begun = read_description(checkpoint).step > 0
        # Not `rows_kept`: a process that began from a checkpoint has a model before its first row.
        if not has_begun:
            return StreamTrainer.new(recipe), ledger
        if ledger.day is not None and ledger.day > self._latest_day():
            # A release that accepted any time saved it; no later day would ever have begun.
            self._report(f"the saved day {ledger.day} is in the future; the next rows begin a day")
            ledger = replace(ledger, day=None)
        return StreamTrainer.from_checkpoint(recipe, checkpoint, ledger.day), ledger

    def _latest_ms(self) -> float:
        """Return the latest moment that a row may have, in epoch milliseconds."""
        return 1000 * (time.time() + 3600 * self._settings.max_ahead_hours)

    def _latest_day(self) -> int:
        return local_day(int(self._latest_ms()), self._job.config.features.timezone)

    def _first_follower(self, recipe: LearnerConfig) -> StreamTrainer:
        """Return the learner of the workspace's last sound checkpoint, or a new one."""
        store = self._job.store
        refresh_blocked(store, self._job.config.tracking.registered_model, self._report)
        unvalidated = self._job.config.training.unvalidated_parent
        checkpoint = parent_checkpoint(store, date.max, self._report, unvalidated=unvalidated)
        if checkpoint is None:
            self._report(f"no checkpoint in {store.workspace}: starts with an untrained model")
            return StreamTrainer.new(recipe)
        follower = StreamTrainer.from_checkpoint(recipe, checkpoint.path)
        # The checkpoint held out the last part of its day, which the model is not trained on yet.
        partition = input_of(store, checkpoint, "impressions")
        fraction = read_description(checkpoint.path).training.holdout_fraction
        rows = follower.train_on_heldout(partition.path, fraction) if partition else 0
        self._report(
            f"starts from the checkpoint of {checkpoint.day}, with the {rows:,} impressions that "
            "it held out"
        )
        return follower
