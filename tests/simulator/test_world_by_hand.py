"""The world, recomputed for one id at a time with Python numbers from its formulas."""

from __future__ import annotations

import math
from datetime import date

import numpy as np
import pytest

from simulator.impressions import Chunk, impressions
from simulator.settings import EffectSettings, SimulatorSettings
from simulator.truth import true_probability
from simulator.world import COUNTRIES, DEVICES, SLOTS, TAG_SETS, TAGS, Property, World

MASK = 2**64 - 1
SETTINGS = SimulatorSettings(
    users=2_000,
    items=300,
    categories=9,
    advertisers=40,
    latent_dim=6,
    drift_per_day=0.2,
    base_ctr=0.3,
    seed=5,
    null_price_share=0.0,
)
DAY, DAY_INDEX = date(2026, 1, 8), 7


def splitmix(number, salted):
    z = (number + salted + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def salted(*parts):
    state = 0
    for part in parts:
        state = splitmix(part, state)
    return state


def share(number, prop):
    return (splitmix(number, salted(SETTINGS.seed, prop)) >> 11) / 2**53


def rank(draw, size, exponent=0.8):
    power = 1 - exponent
    return int((1 + draw * ((size + 1) ** power - 1)) ** (1 / power)) - 1


def traits(number, owner, turns, count=1 + SETTINGS.latent_dim):
    seed = salted(SETTINGS.seed, owner)
    found = []
    for position in range(count):
        word = splitmix(number, salted(seed, position // 4))
        phase = (word >> 16 * (position % 4)) & 0xFFFF
        found.append(
            math.sqrt(2)
            * math.cos(2 * math.pi * phase / 2**16 + turns * DAY_INDEX * SETTINGS.drift_per_day)
        )
    return found


@pytest.fixture(scope="module")
def world():
    return World(SETTINGS)


@pytest.fixture(scope="module")
def records(world):
    return impressions(world, DAY, Chunk(0, 0, 300)).to_pylist()


def test_users_and_items_have_the_properties_of_their_hashes(world, records):
    for record in records:
        user, item = record["user_id"], record["item_id"]
        assert record["country"] == COUNTRIES[rank(share(user, Property.COUNTRY), len(COUNTRIES))]
        tag_set = world.tag_sets[rank(share(user, Property.TAG_SET), TAG_SETS)]
        assert record["user_tags"].split(",") == [TAGS[tag] for tag in tag_set]
        assert record["category_id"] == rank(share(item, Property.CATEGORY), 9)
        assert record["advertiser_id"] == rank(share(item, Property.ADVERTISER), 40)
        assert record["segment_id"] == rank(share(user, Property.SEGMENT), 400)
        assert record["topic_id"] == rank(share(item, Property.TOPIC), 300)
        log_price = math.sqrt(2) * math.cos(2 * math.pi * share(item, Property.PRICE))
        assert record["price"] == pytest.approx(math.exp(2.5 + 0.8 * log_price), abs=0.0051)


def expected_logit(world, record):
    tables, scale = world.effects, SETTINGS.effects
    user, item = record["user_id"], record["item_id"]
    mine, theirs = traits(user, Property.USER, 1), traits(item, Property.ITEM, 2)
    slot, device = SLOTS.index(record["slot"]), DEVICES.index(record["device"])
    hour = record["timestamp_ms"] // 3_600_000 % 24
    category = record["category_id"]
    visit = scale.user * mine[0] + tables.country[COUNTRIES.index(record["country"])]
    visit += (
        tables.slot[slot]
        + tables.device[device]
        + tables.hour[hour]
        + tables.position[record["position"] - 1]
    )
    log_price = math.sqrt(2) * math.cos(2 * math.pi * share(item, Property.PRICE))
    shown = (
        scale.item * theirs[0]
        + tables.category[category]
        + tables.advertiser[record["advertiser_id"]]
        - scale.price * log_price
    )
    both = (
        scale.latent * sum(m * t for m, t in zip(mine[1:], theirs[1:], strict=True)) / math.sqrt(6)
    )
    both += (
        tables.slot_category[slot, category]
        + tables.tags_category[rank(share(user, Property.TAG_SET), TAG_SETS), category]
    )
    segment = traits(record["segment_id"], Property.SEGMENT, 0, 4)
    topic = traits(record["topic_id"], Property.TOPIC, 0, 4)
    both += scale.segment * sum(s * t for s, t in zip(segment, topic, strict=True)) / math.sqrt(4)
    return world.base + visit + shown + both


def test_the_true_probability_is_the_logistic_of_the_stated_sum(world):
    table = impressions(world, DAY, Chunk(0, 0, 300))
    expected = [1 / (1 + math.exp(-expected_logit(world, record))) for record in table.to_pylist()]
    np.testing.assert_allclose(true_probability(SETTINGS, table), expected, rtol=1e-5)


def test_the_base_logit_by_hand(world):
    one = EffectSettings(**dict.fromkeys(EffectSettings.model_fields, 0.0) | {"user": 1.0})
    assert World(SETTINGS.model_copy(update={"effects": one})).base == pytest.approx(
        math.log(3 / 7) * math.sqrt(1 + math.pi / 8)
    )


def test_hours_peak_in_the_evening_and_early_positions_are_clicked_most(world):
    assert int(np.argmax(world.effects.hour)) == 21
    assert list(np.argsort(-world.effects.position)) == [0, 1, 2, 3, 4, 5]


def test_tags_affinities_of_single_tags_add_up_to_those_of_sets(world):
    """A set's effect is the sum of its tags' effects over the square root of their number."""
    single = {
        tags[0]: world.effects.tags_category[i]
        for i, tags in enumerate(world.tag_sets)
        if len(tags) == 1
    }
    pairs = [
        (i, tags)
        for i, tags in enumerate(world.tag_sets)
        if len(tags) == 2 and set(tags) <= set(single)
    ]
    assert len(pairs) > 10
    for i, (one, other) in pairs:
        np.testing.assert_allclose(
            world.effects.tags_category[i], (single[one] + single[other]) / math.sqrt(2)
        )
