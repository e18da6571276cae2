"""The simulated world: properties of users and items, and the true log-odds of a click.

    logit = base + user bias + country + slot + device + hour + position            (the visit)
          + item bias + category + advertiser + price                               (the item)
          + <user factors, item factors> + <segment factors, topic factors>         (both)
          + slot x category + user tags x category

Biases and factors of a user or item are √2 · cos(2π · hash + angle), with mean 0 and variance 1.
Drift turns the angle, so any day is computed without the days before it. Effects of the few values
of a context, and of categories and advertisers, are small tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from simulator.hashing import Floats, Ints, phases, salt, uniform
from simulator.popularity import power_law
from simulator.settings import ShiftedCtr, SimulatorSettings

SLOTS = ("feed_top", "feed", "sidebar", "search", "story")
DEVICES = ("phone", "tablet", "desktop", "tv")
COUNTRIES = ("BR", "CN", "DE", "ES", "FR", "GB", "ID", "IN", "JP", "MX", "NG", "US")
TAGS = tuple(f"t{n:02d}" for n in range(30))
POSITIONS = 6
TAG_SETS = 500
"""Number of different sets of one to four tags that users have."""

_SKEW = 0.8
_ANGLES = 2**16
_ITEM_TURNS = 2
"""Items turn twice as fast as users, so that every part of their inner product changes."""


class Property(IntEnum):
    """What is hashed; part of the salt of an id's hash."""

    WORLD = 0
    USER = 1
    COUNTRY = 2
    TAG_SET = 3
    ITEM = 4
    CATEGORY = 5
    ADVERTISER = 6
    PRICE = 7
    SEGMENT = 8
    TOPIC = 9


@dataclass(frozen=True)
class VisitContext:
    """Where and when n impressions happened, int64 [n] each.

    Attributes:
        slot: number into SLOTS.
        device: number into DEVICES.
        position: from 0.
        hour: UTC hour of the day.
    """

    slot: Ints
    device: Ints
    position: Ints
    hour: Ints


@dataclass(frozen=True)
class Effects:
    """Tables of effects in logits, such as [slots], [slots, categories], [tag sets, categories]."""

    slot: Floats
    device: Floats
    position: Floats
    hour: Floats
    country: Floats
    category: Floats
    advertiser: Floats
    slot_category: Floats
    tags_category: Floats


class World:
    """Properties of every user, item and context, as functions of the settings."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self.settings = settings
        # The order of the draws is part of the world.
        rng = np.random.Generator(np.random.Philox(key=salt(settings.seed, Property.WORLD)))
        sizes = rng.integers(1, 5, TAG_SETS)
        draws = [rng.choice(len(TAGS), size, replace=False).tolist() for size in sizes]
        self.tag_sets = tuple(tuple(sorted(tags)) for tags in draws)
        self.effects = _draw_effects(rng, settings, self.tag_sets)
        self.base = _base_logit(settings)

    def country(self, users: Ints) -> Ints:
        """Return the users' countries as numbers into COUNTRIES, int64 [n]."""
        return power_law(self._uniform(users, Property.COUNTRY), len(COUNTRIES), _SKEW)

    def tag_set(self, users: Ints) -> Ints:
        """Return the users' sets of tags as numbers into `tag_sets`, int64 [n]."""
        return power_law(self._uniform(users, Property.TAG_SET), TAG_SETS, _SKEW)

    def segment(self, users: Ints) -> Ints:
        """Return the users' segments, int64 [n]."""
        return power_law(self._uniform(users, Property.SEGMENT), self.settings.segments, _SKEW)

    def topic(self, items: Ints) -> Ints:
        """Return the items' topics, int64 [n]."""
        return power_law(self._uniform(items, Property.TOPIC), self.settings.topics, _SKEW)

    def category(self, items: Ints) -> Ints:
        """Return the items' categories, int64 [n]."""
        return power_law(self._uniform(items, Property.CATEGORY), self.settings.categories, _SKEW)

    def advertiser(self, items: Ints) -> Ints:
        """Return the items' advertisers, int64 [n]."""
        draws = self._uniform(items, Property.ADVERTISER)
        return power_law(draws, self.settings.advertisers, _SKEW)

    def log_price(self, items: Ints) -> Floats:
        """Return the logarithms of the items' prices with mean 0 and variance 1, float64 [n]."""
        return np.sqrt(2) * np.cos(2 * np.pi * self._uniform(items, Property.PRICE))

    def traits(self, ids: Ints, owner: Property, day_index: int) -> Floats:
        """Return the bias and the factors of users or items on a day.

        Args:
            ids: users or items, int64 [n].
            owner: `USER` or `ITEM`.
            day_index: number of the day, counted from the settings' first day.

        Returns:
            float32 [1 + latent_dim, n].
        """
        turn = _ITEM_TURNS if owner is Property.ITEM else 1
        drift = turn * day_index * self.settings.drift_per_day
        return self._factors(ids, owner, 1 + self.settings.latent_dim, drift)

    def group_factors(self, groups: Ints, owner: Property) -> Floats:
        """Return the factors of segments or topics, which do not drift.

        Args:
            groups: segments or topics, int64 [n].
            owner: `SEGMENT` or `TOPIC`.

        Returns:
            float32 [segment_dim, n].
        """
        return self._factors(groups, owner, self.settings.segment_dim, 0.0)

    def visit(self, users: Ints, context: VisitContext, day_index: int) -> Visit:
        """Return the visits of users in their contexts on a day."""
        return Visit(self, users, context, day_index)

    def _factors(self, ids: Ints, owner: Property, count: int, drift: float) -> Floats:
        angles = 2 * np.pi * np.arange(_ANGLES) / _ANGLES + drift
        table = (np.sqrt(2) * np.cos(angles)).astype(np.float32)
        return table[phases(ids, salt(self.settings.seed, owner), count)]

    def _uniform(self, ids: Ints, what: Property) -> NDArray[np.float64]:
        return uniform(ids, salt(self.settings.seed, what))


class Visit:
    """A batch of n users in their contexts on one day."""

    def __init__(self, world: World, users: Ints, context: VisitContext, day_index: int) -> None:
        self._world, self._context, self._day_index = world, context, day_index
        self._traits = world.traits(users, Property.USER, day_index)
        self._tag_set = world.tag_set(users)
        self._segment = world.group_factors(world.segment(users), Property.SEGMENT)
        effects, settings = world.effects, world.settings
        shifts = [
            fault.logit_shift
            for fault in settings.faults
            if isinstance(fault, ShiftedCtr)
            and any((day - settings.first_day).days == day_index for day in fault.days)
        ]
        # The order of additions decides the last bits of a logit, on which the truth depends.
        bias = settings.effects.user * self._traits[0].astype(np.float64)
        self._alone = world.base + sum(shifts) + bias
        place = effects.country[world.country(users)] + effects.slot[context.slot]
        self._alone += place + effects.device[context.device]
        self._alone += effects.hour[context.hour] + effects.position[context.position]

    def logits(self, items: Ints) -> NDArray[np.float64]:
        """Return the true log-odds of a click when visit i is shown item i, float64 [n]."""
        world, effects, scale = self._world, self._world.effects, self._world.settings.effects
        traits = world.traits(items, Property.ITEM, self._day_index)
        category, slot = world.category(items), self._context.slot
        total = self._alone + scale.item * traits[0] - scale.price * world.log_price(items)
        total += effects.category[category] + effects.advertiser[world.advertiser(items)]
        crossed = effects.tags_category[self._tag_set, category]
        total += effects.slot_category[slot, category] + crossed
        for mine, theirs in zip(self._traits[1:], traits[1:], strict=True):
            total += scale.latent / np.sqrt(world.settings.latent_dim) * mine * theirs
        topic = world.group_factors(world.topic(items), Property.TOPIC)
        for mine, theirs in zip(self._segment, topic, strict=True):
            total += scale.segment / np.sqrt(world.settings.segment_dim) * mine * theirs
        return total


def _draw_effects(
    rng: np.random.Generator, settings: SimulatorSettings, tag_sets: tuple[tuple[int, ...], ...]
) -> Effects:
    scale, categories = settings.effects, settings.categories

    def centred(size: int, deviation: float) -> Floats:
        """Draw effects with mean 0."""
        draws = rng.standard_normal(size)
        return deviation * (draws - draws.mean())

    affinity = rng.standard_normal((len(TAGS), categories))
    pooled = np.stack([affinity[list(tags)].sum(axis=0) / np.sqrt(len(tags)) for tags in tag_sets])
    position = -np.log1p(np.arange(POSITIONS))
    # Keyword arguments are evaluated in order, which is the order of the draws.
    return Effects(
        slot=centred(len(SLOTS), scale.context),
        device=centred(len(DEVICES), scale.context),
        position=scale.context * ((position - position.mean()) / position.std()),
        # Most clicks at 21 h UTC, least at 9 h.
        hour=scale.context * np.sqrt(2) * np.cos(2 * np.pi * (np.arange(24) - 21) / 24),
        country=centred(len(COUNTRIES), scale.context),
        category=centred(categories, scale.category),
        advertiser=centred(settings.advertisers, scale.advertiser),
        slot_category=scale.interaction * rng.standard_normal((len(SLOTS), categories)),
        tags_category=scale.interaction * pooled,
    )


def _base_logit(settings: SimulatorSettings) -> float:
    """Return the logit whose expected probability is `base_ctr` if all effects are normal.

    MacKay's probit approximation ("The evidence framework applied to classification networks",
    1992): E[sigmoid(x)] ≈ sigmoid(mean / √(1 + π · variance / 8)).
    """
    e = settings.effects
    variance = e.user**2 + e.item**2 + e.category**2 + e.advertiser**2 + e.latent**2 + e.price**2
    variance += 5 * e.context**2 + 2 * e.interaction**2 + e.segment**2
    logit = np.log(settings.base_ctr / (1 - settings.base_ctr))
    return float(logit * np.sqrt(1 + np.pi * variance / 8))
