"""How often users and items occur: power laws, and items that are new each day."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.settings import SimulatorSettings

Ids = NDArray[np.int64]


def power_law(draws: NDArray[np.float64], size: int, exponent: float, shift: float = 0.0) -> Ids:
    """Map uniform draws to ranks 0 … size - 1.

    Rank r has a frequency of about (r + 1 + shift)^-exponent (Zipf and Mandelbrot). Inverts the
    distribution function of the density x^-exponent on [1 + shift, size + 1 + shift), without a
    table.
    """
    first, last = 1.0 + shift, size + 1.0 + shift
    if abs(exponent - 1) < 1e-9:
        x = first * np.power(last / first, draws)
    else:
        power = 1 - exponent
        low = first**power
        x = np.power(low + draws * (last**power - low), 1 / power)
    return np.clip((x - shift).astype(np.int64) - 1, 0, size - 1)


def draw_users(rng: np.random.Generator, settings: SimulatorSettings, count: int) -> Ids:
    """Return user ids 0 … users - 1 by popularity, int64 [count]."""
    draws = rng.random(count)
    return power_law(draws, settings.users, settings.user_exponent, settings.user_shift)


def draw_candidates(
    rng: np.random.Generator, settings: SimulatorSettings, day_index: int, count: int
) -> Ids:
    """Return distinct item ids by popularity for each impression, int64 [candidates, count].

    Candidate j is drawn among the items whose popularity rank is j modulo the number of
    candidates: its lane. This makes candidates distinct without rejection.

    Args:
        rng: source of the draws.
        settings: numbers of items and their popularity.
        day_index: number of the day, counted from the settings' first day.
        count: number of impressions.
    """
    lanes = range(settings.policy.candidates)
    return np.stack([_draw_lane(rng, settings, day_index, count, lane) for lane in lanes])


def _draw_lane(
    rng: np.random.Generator, settings: SimulatorSettings, day_index: int, count: int, lane: int
) -> Ids:
    lanes, new = settings.policy.candidates, settings.new_items_per_day

    def draw(draws: NDArray[np.float64], size: int) -> Ids:
        """Return numbers below `size` that are `lane` modulo the number of lanes."""
        size, shift = -(-(size - lane) // lanes), settings.item_shift / lanes
        return power_law(draws, size, settings.item_exponent, shift) * lanes + lane

    items = draw(rng.random(count), settings.items)
    if lane < new:
        # A share of the candidates are items that arrived on this day or an earlier one. Their age
        # in days has a geometric distribution.
        rows = np.flatnonzero(rng.random(count) < settings.fresh_share)
        age = np.log1p(-rng.random(len(rows))) // np.log(settings.fresh_decay)
        arrival = np.maximum(day_index - age.astype(np.int64), 0)
        items[rows] = settings.items + arrival * new + draw(rng.random(len(rows)), new)
    return items
