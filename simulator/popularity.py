"""Who and what is seen how often: power-law users, power-law items, and items that are new each day."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from simulator.settings import SimulatorSettings


def power_law(draws: npt.NDArray[np.float64], size: int, exponent: float) -> npt.NDArray[np.int64]:
    """Turn uniform draws into ranks 0 … size - 1, rank r with a frequency of about (r + 1) ** -exponent.

    Inverts the distribution function of the density x ** -exponent on [1, size + 1), so it needs no table.
    """
    if abs(exponent - 1) < 1e-9:
        x = np.power(size + 1.0, draws)
    else:
        power = 1 - exponent
        x = np.power(1 + draws * ((size + 1.0) ** power - 1), 1 / power)
    return np.clip(x.astype(np.int64) - 1, 0, size - 1)


def draw_users(
    rng: np.random.Generator, settings: SimulatorSettings, count: int
) -> npt.NDArray[np.int64]:
    """Return int64 [count]: user ids 0 … users - 1, by popularity."""
    return power_law(rng.random(count), settings.users, settings.user_exponent)


def draw_candidates(
    rng: np.random.Generator, settings: SimulatorSettings, day_index: int, count: int
) -> npt.NDArray[np.int64]:
    """Return int64 [candidates, count]: for each of `count` impressions, distinct item ids by popularity.

    Candidate j is drawn among the items whose popularity rank is j modulo the number of candidates: this is what
    makes them distinct without rejection. `day_index` counts days from the settings' first day.
    """
    return np.stack(
        [
            _draw_items(rng, settings, day_index, count, lane)
            for lane in range(settings.policy.candidates)
        ]
    )


def _draw_items(
    rng: np.random.Generator, settings: SimulatorSettings, day_index: int, count: int, lane: int
) -> npt.NDArray[np.int64]:
    lanes = settings.policy.candidates
    items = _in_lane(rng.random(count), settings.items, settings.item_exponent, lane, lanes)
    if lane < settings.new_items_per_day:
        rows = np.flatnonzero(rng.random(count) < settings.fresh_share)
        items[rows] = _draw_fresh(rng, settings, day_index, len(rows), lane)
    return items


def _draw_fresh(
    rng: np.random.Generator, settings: SimulatorSettings, day_index: int, count: int, lane: int
) -> npt.NDArray[np.int64]:
    age = np.log1p(-rng.random(count)) // np.log(settings.fresh_decay)
    arrival = np.maximum(day_index - age.astype(np.int64), 0)
    draws = rng.random(count)
    within = _in_lane(
        draws, settings.new_items_per_day, settings.item_exponent, lane, settings.policy.candidates
    )
    return settings.items + arrival * settings.new_items_per_day + within


def _in_lane(
    draws: npt.NDArray[np.float64], size: int, exponent: float, lane: int, lanes: int
) -> npt.NDArray[np.int64]:
    return power_law(draws, -(-(size - lane) // lanes), exponent) * lanes + lane
