"""The state of a long training, saved every few minutes, so that a killed one continues from it.

A state holds all that the rest of the day's training depends on: both learners, the place in the
day, and the probabilities so far. The result has the same bytes as that of an undisturbed training.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError
from features.files import atomic_folder
from training.data.arrays import read_arrays, write_arrays
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.fit.training_loop import BEGINNING, Place, Timing

_log = logging.getLogger(__name__)

WARM_START = 0
"""The phase of the day's training before its first slice: on the slice of the day before."""

_STATE = "state.json"
_SCORES = "scores.npz"
_PREFIX = "step-"


@dataclass(frozen=True)
class SavedState:
    """A state on the disk.

    Attributes:
        folder: of its files.
        phase: that was interrupted: `WARM_START`, or from 1 on the slice of the day.
        place: in this phase.
        earlier: the time of the day's training in the phases before.
        timing: the time of the training in this phase.
        progressive: probabilities float32 [n] of the day so far; empty in `WARM_START`.
    """

    folder: Path
    phase: int
    place: Place
    earlier: Timing
    timing: Timing
    progressive: NDArray[np.float32]

    @classmethod
    def read(cls, folder: Path) -> SavedState:
        """Read a state; raises InputError if it is damaged."""
        path = folder / _STATE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            place = Place(**document["place"])
            earlier, timing = (Timing(**document[name]) for name in ("earlier", "timing"))
            phase = int(document["phase"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: no readable state of a training ({error})") from error
        progressive = read_arrays(folder / _SCORES)["progressive"]
        return cls(folder, phase, place, earlier, timing, progressive)

    def write(self, folder: Path) -> None:
        """Write what `read` reads."""
        write_arrays(folder / _SCORES, {"progressive": self.progressive})
        document = {"phase": self.phase, "place": asdict(self.place)}
        document |= {"earlier": asdict(self.earlier), "timing": asdict(self.timing)}
        (folder / _STATE).write_text(json.dumps(document), encoding="utf-8")


class SavedStates:
    """The states of one day's training: finds the last one, and saves new ones.

    Args:
        folder: where the states are; None: none is read or saved.
        every_s: least seconds between two saves; 0: none is saved.
        report: receives a line when the training continues from a state, and about each save.
    """

    def __init__(
        self,
        folder: Path | None = None,
        every_s: float = 0,
        report: Callable[[str], None] = _log.info,
    ) -> None:
        self._folder, self._every_s, self._report = folder, every_s, report
        self._saved_at = time.monotonic()
        self._last: SavedState | None = None

    def restored(self, config: LearnerConfig) -> ModelAndBaseline | None:
        """Return the learners of the last readable state, or None if there is none."""
        for folder in self._found():
            try:
                state = SavedState.read(folder)
                learners = ModelAndBaseline.from_state(config, folder)
            except InputError as error:
                self._report(f"{error}: the saved state {folder.name} is not used")
                continue
            self._last = state
            self._report(
                f"a training of this day was interrupted: it continues at step "
                f"{learners.model.table.step:,}, which was saved in {folder}"
            )
            return learners
        return None

    def is_over(self, phase: int) -> bool:
        """Whether a phase had ended when the state was saved."""
        return self._last is not None and phase < self._last.phase

    def interrupted(self, phase: int) -> SavedState | None:
        """Return the state if it was saved in this phase."""
        return self._last if self._last and self._last.phase == phase else None

    def place(self, phase: int) -> Place:
        """Return where the training of a phase begins."""
        state = self.interrupted(phase)
        return state.place if state else BEGINNING

    def progressive(self, rows: int) -> NDArray[np.float32]:
        """Return the probabilities so far, float32 [rows]; NaN where there are none yet."""
        if self._last and self._last.phase > WARM_START:
            return self._last.progressive.copy()
        return np.full(rows, np.nan, np.float32)

    def earlier(self) -> list[Timing]:
        """Return the times of the interrupted training."""
        state = self._last
        return [state.earlier, state.timing] if state and state.phase > WARM_START else []

    def saver(
        self,
        learners: ModelAndBaseline,
        phase: int,
        earlier: Timing,
        progressive: NDArray[np.float32],
    ) -> Callable[[Place, Timing], None]:
        """Return what saves a state of a phase when a save is due.

        It is called after each step with the place and the time of the phase; the other arguments
        are those of `SavedState`.
        """

        def save(place: Place, timing: Timing) -> None:
            is_due = time.monotonic() - self._saved_at >= self._every_s
            if self._folder and self._every_s and is_due:
                self._save(
                    learners, SavedState(self._folder, phase, place, earlier, timing, progressive)
                )

        return save

    def _save(self, learners: ModelAndBaseline, state: SavedState) -> None:
        """Save a state; one that cannot be written is reported, and training goes on."""
        started = time.monotonic()
        step = learners.model.table.step
        try:
            old = self._found()
            with atomic_folder(state.folder / f"{_PREFIX}{step}") as folder:
                learners.save_state(folder)
                state.write(folder)
            # Only now: at every moment there is a complete state.
            for each in old:
                shutil.rmtree(each)
        except OSError as error:
            self._report(f"the state at step {step:,} could not be saved ({error})")
        else:
            spent = time.monotonic() - started
            self._report(f"saved the state at step {step:,} in {spent:.1f} s")
        # After the write: a slow disk must not fill the time between two saves.
        self._saved_at = time.monotonic()

    def _found(self) -> list[Path]:
        """Return the folders of complete states, latest first."""
        if not self._folder:
            return []
        found = self._folder.glob(f"{_PREFIX}*")
        return sorted(found, key=lambda path: int(path.name.removeprefix(_PREFIX)), reverse=True)
