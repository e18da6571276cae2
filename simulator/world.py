"""The simulated world: what ids are like, and the true log-odds of a click.

    logit = base + user bias + country + slot + device + hour + position          (the visit)
          + item bias + category + advertiser + price                             (the item)
          + <user factors, item factors> + slot x category + user tags x category (both)

Biases and factors of a user or item are √2 · cos(2π · hash + angle): mean 0, variance 1, and drift is a turn of the
angle, so any day is computed without the ones before it. Effects of things there are few of are small tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from simulator.hashing import phases, salt, uniform
from simulator.popularity import power_law
from simulator.settings import ShiftedCtr, SimulatorSettings

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

SLOTS = ("feed_top", "feed", "sidebar", "search", "story")
DEVICES = ("phone", "tablet", "desktop", "tv")
COUNTRIES = ("BR", "CN", "DE", "ES", "FR", "GB", "ID", "IN", "JP", "MX", "NG", "US")
TAGS = tuple(f"t{n:02d}" for n in range(30))
POSITIONS = 6
TAG_SETS = 500
"""Users share this many different sets of one to four tags."""

_SKEW = 0.8
_ANGLES = 2**16
_ITEM_TURNS = 2
"""Items turn twice as fast as users, so that no part of their inner product stays as it was."""


class Property(IntEnum):
    """What is hashed: salts the hash of an id."""

    WORLD = 0
    USER = 1
    COUNTRY = 2
    TAG_SET = 3
    ITEM = 4
    CATEGORY = 5
    ADVERTISER = 6
    PRICE = 7


@dataclass(frozen=True)
class Context:
    """Where impressions happened: int64 [n] each, numbers into SLOTS and DEVICES, position from 0, UTC hour."""

    slot: Ints
    device: Ints
    position: Ints
    hour: Ints


@dataclass(frozen=True)
class Effects:
    """Tables of effects in logits: [slots], [devices], …, [slots, categories], [tag sets, categories]."""

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
    """The properties of every user, item and context under one settings object.

    Args:
        settings: the world's size, effects and seed.
    """

    def __init__(self, settings: SimulatorSettings) -> None:
        self.settings = settings
        rng = np.random.Generator(np.random.Philox(key=salt(settings.seed, Property.WORLD)))
        self.tag_sets = _draw_tag_sets(rng)
        self.effects = _draw_effects(rng, settings, self.tag_sets)
        self.base = _base_logit(settings)

    def country(self, users: Ints) -> Ints:
        """Return int64 [n]: the users' countries, numbers into COUNTRIES."""
        return power_law(self._uniform(users, Property.COUNTRY), len(COUNTRIES), _SKEW)

    def tag_set(self, users: Ints) -> Ints:
        """Return int64 [n]: the users' sets of tags, numbers into `tag_sets`."""
        return power_law(self._uniform(users, Property.TAG_SET), TAG_SETS, _SKEW)

    def category(self, items: Ints) -> Ints:
        """Return int64 [n]: the items' categories."""
        return power_law(self._uniform(items, Property.CATEGORY), self.settings.categories, _SKEW)

    def advertiser(self, items: Ints) -> Ints:
        """Return int64 [n]: the items' advertisers."""
        return power_law(
            self._uniform(items, Property.ADVERTISER), self.settings.advertisers, _SKEW
        )

    def log_price(self, items: Ints) -> Floats:
        """Return float64 [n]: the items' logarithmic prices, standardised (mean 0, variance 1)."""
        return np.sqrt(2) * np.cos(2 * np.pi * self._uniform(items, Property.PRICE))

    def traits(self, ids: Ints, owner: Property, day_index: int) -> Floats:
        """Return float32 [1 + latent_dim, n]: the bias and then the factors of users or items on a day."""
        turns = _ITEM_TURNS if owner is Property.ITEM else 1
        angles = (
            2 * np.pi * np.arange(_ANGLES) / _ANGLES
            + turns * day_index * self.settings.drift_per_day
        )
        table = (np.sqrt(2) * np.cos(angles)).astype(np.float32)
        return table[phases(ids, salt(self.settings.seed, owner), 1 + self.settings.latent_dim)]

    def visit(self, users: Ints, context: Context, day_index: int) -> Visit:
        """Return the visits of these users in these contexts, ready to be asked about items."""
        return Visit(self, users, context, day_index)

    def _uniform(self, ids: Ints, prop: Property) -> npt.NDArray[np.float64]:
        return uniform(ids, salt(self.settings.seed, prop))


class Visit:
    """A batch of n users in their contexts on one day: gives the true logit of showing each an item."""

    def __init__(self, world: World, users: Ints, context: Context, day_index: int) -> None:
        self._world, self._context, self._day_index = world, context, day_index
        self._traits = world.traits(users, Property.USER, day_index)
        self._tag_set = world.tag_set(users)
        effects, scale = world.effects, world.settings.effects
        self._alone = (
            world.base
            + _shift(world.settings, day_index)
            + scale.user * self._traits[0].astype(np.float64)
        )
        self._alone += (
            effects.country[world.country(users)]
            + effects.slot[context.slot]
            + effects.device[context.device]
        )
        self._alone += effects.hour[context.hour] + effects.position[context.position]

    def logits(self, items: Ints) -> npt.NDArray[np.float64]:
        """Return float64 [n]: true log-odds of a click when visit i is shown item i."""
        world, scale = self._world, self._world.settings.effects
        traits, category = (
            world.traits(items, Property.ITEM, self._day_index),
            world.category(items),
        )
        total = self._alone + scale.item * traits[0] - scale.price * world.log_price(items)
        total += (
            world.effects.category[category] + world.effects.advertiser[world.advertiser(items)]
        )
        total += (
            world.effects.slot_category[self._context.slot, category]
            + world.effects.tags_category[self._tag_set, category]
        )
        for mine, theirs in zip(self._traits[1:], traits[1:], strict=True):
            total += scale.latent / np.sqrt(world.settings.latent_dim) * mine * theirs
        return total


def _draw_tag_sets(rng: np.random.Generator) -> tuple[tuple[int, ...], ...]:
    sizes = rng.integers(1, 5, TAG_SETS)
    return tuple(
        tuple(sorted(rng.choice(len(TAGS), size, replace=False).tolist())) for size in sizes
    )


def _draw_effects(
    rng: np.random.Generator, settings: SimulatorSettings, tag_sets: tuple[tuple[int, ...], ...]
) -> Effects:
    scale, categories = settings.effects, settings.categories
    affinity = rng.standard_normal((len(TAGS), categories))
    pooled = np.stack([affinity[list(tags)].sum(axis=0) / np.sqrt(len(tags)) for tags in tag_sets])
    return Effects(
        slot=_centred(rng, len(SLOTS), scale.context),
        device=_centred(rng, len(DEVICES), scale.context),
        position=scale.context * _standardised(-np.log1p(np.arange(POSITIONS))),
        hour=scale.context * np.sqrt(2) * np.cos(2 * np.pi * (np.arange(24) - 21) / 24),
        country=_centred(rng, len(COUNTRIES), scale.context),
        category=_centred(rng, categories, scale.category),
        advertiser=_centred(rng, settings.advertisers, scale.advertiser),
        slot_category=scale.interaction * rng.standard_normal((len(SLOTS), categories)),
        tags_category=scale.interaction * pooled,
    )


def _centred(rng: np.random.Generator, size: int, scale: float) -> Floats:
    draws = rng.standard_normal(size)
    return scale * (draws - draws.mean())


def _standardised(values: Floats) -> Floats:
    return (values - values.mean()) / values.std()


def _base_logit(settings: SimulatorSettings) -> float:
    """The logit whose expected probability is `base_ctr` under normal effects (MacKay's probit approximation, 1992)."""
    e = settings.effects
    variance = e.user**2 + e.item**2 + e.category**2 + e.advertiser**2 + e.latent**2 + e.price**2
    variance += 5 * e.context**2 + 2 * e.interaction**2
    return float(
        np.log(settings.base_ctr / (1 - settings.base_ctr)) * np.sqrt(1 + np.pi * variance / 8)
    )


def _shift(settings: SimulatorSettings, day_index: int) -> float:
    shifts = [f for f in settings.faults if isinstance(f, ShiftedCtr)]
    return sum(
        f.logit_shift
        for f in shifts
        if any((day - settings.first_day).days == day_index for day in f.days)
    )
