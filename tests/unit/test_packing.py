"""Packing: each sample once, within both budgets, full packs, and ranks with the same to do."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.arrangement import arrange, packing_of, split_given
from shardline.errors import ConfigError
from shardline.exact_packing import exact_fill
from shardline.global_packing import best_fit_capped, best_fit_counted, pack_all
from shardline.mixture import redraw
from shardline.pack_cost import (
    balanced_order,
    imbalance,
    order_in_steps,
    pack_costs,
    predicted_imbalance,
)
from shardline.packing import best_fit, pack_steps

CAPACITY = 100
LENGTHS = st.lists(st.integers(1, CAPACITY), min_size=1, max_size=80).map(np.array)


def loads(values, packs):
    return np.bincount(packs, weights=values).astype(int)


@given(LENGTHS)
def test_counting_by_length_is_best_fit_decreasing(lengths):
    packs = best_fit_counted(lengths, CAPACITY)
    one_by_one = best_fit(sorted(lengths.tolist(), reverse=True), CAPACITY)
    expected = loads(np.sort(lengths)[::-1], one_by_one)
    assert sorted(loads(lengths, packs)) == sorted(expected)
    assert set(packs.tolist()) == set(range(packs.max() + 1))


@given(LENGTHS)
def test_samples_of_one_length_are_taken_in_their_order(lengths):
    packs = best_fit_counted(lengths, CAPACITY)
    again = best_fit_counted(lengths[::-1], CAPACITY)
    assert sorted(loads(lengths, packs)) == sorted(loads(lengths[::-1], again))
    alike = np.full(7, 30)
    assert best_fit_counted(alike, CAPACITY).tolist() == [0, 0, 0, 1, 1, 1, 2]


@st.composite
def pictures(draw):
    samples = draw(st.lists(st.tuples(st.integers(1, 100), st.integers(0, 40)), min_size=1))
    lengths, patches = np.array(samples).T
    return lengths, patches, draw(st.integers(40, 120))


@given(pictures())
def test_no_pack_is_over_either_budget(samples):
    lengths, patches, most = samples
    packs = best_fit_capped(lengths, patches, CAPACITY, most)
    assert loads(lengths, packs).max() <= CAPACITY and loads(patches, packs).max() <= most
    assert set(packs.tolist()) == set(range(packs.max() + 1))
    tokens, seen = loads(lengths, packs), loads(patches, packs)
    # No two packs could be one: best fit opens a pack only for what fits in none.
    pairs = np.add.outer(tokens, tokens), np.add.outer(seen, seen)
    together = (pairs[0] <= CAPACITY) & (pairs[1] <= most)
    assert not together[~np.eye(len(tokens), dtype=bool)].any()


@given(LENGTHS)
def test_a_budget_that_never_binds_changes_nothing(lengths):
    patches = np.ones(len(lengths), dtype=int)
    capped = best_fit_capped(lengths, patches, CAPACITY, 10**9)
    assert sorted(loads(lengths, capped)) == sorted(
        loads(lengths, best_fit_counted(lengths, CAPACITY))
    )
    one, other = (pack_all(lengths, CAPACITY, patches, most) for most in (None, len(lengths)))
    assert one.tolist() == other.tolist()


@given(LENGTHS)
def test_exact_packs_hold_each_sample_once_and_few_have_room(lengths):
    packs = exact_fill(lengths, CAPACITY)
    assert len(packs) == len(lengths) and set(packs.tolist()) == set(range(packs.max() + 1))
    tokens = loads(lengths, packs)
    assert tokens.max() <= CAPACITY
    firsts = [min(lengths[packs > number], default=CAPACITY + 1) for number in range(len(tokens))]
    assert (tokens + firsts > CAPACITY).all()  # what came later did not fit


@given(pictures())
def test_all_samples_are_packed_in_the_fewest_packs_found(samples):
    lengths, patches, most = samples
    for budget in (None, most):
        packs = pack_all(lengths, CAPACITY, patches, budget)
        assert set(packs.tolist()) == set(range(packs.max() + 1))
        assert loads(lengths, packs).max() <= CAPACITY
        assert budget is None or loads(patches, packs).max() <= budget
        known = best_fit_capped(lengths, patches, CAPACITY, budget or 10**9)
        assert packs.max() <= known.max()


def test_a_gap_is_filled_by_one_two_or_three_samples():
    assert loads([60, 40], exact_fill(np.array([60, 40]), 100)).tolist() == [100]
    for rest in ([40], [25, 15], [20, 20], [15, 14, 11], [30, 5, 5]):
        lengths = np.array([60, 39, 38, *rest, 37, 7])
        packs = exact_fill(lengths, 100)
        assert loads(lengths, packs)[packs[0]] == 100, rest


@given(pictures(), st.integers(1, 9))
def test_steps_packed_for_themselves_keep_both_budgets(samples, batch):
    lengths, patches, most = samples
    order, packs, steps = pack_steps(lengths, batch, CAPACITY, patches, most)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert loads(lengths[order], packs).max() <= CAPACITY
    assert loads(patches[order], packs).max() <= most
    assert (order // batch == steps[packs]).all()


@given(
    st.lists(st.floats(1, 1e6), min_size=1, max_size=90).map(np.array),
    st.integers(1, 9),
    st.integers(0, 30),
    st.integers(0, 3),
)
def test_the_order_is_a_permutation_of_groups_alike_in_cost(costs, group, start, epoch):
    order = balanced_order(costs, group, start, 7, epoch)
    assert sorted(order.tolist()) == list(range(len(costs)))
    head = -start % group
    whole = order[head : head + (len(costs) - head) // group * group] if len(costs) > head else []
    if len(whole):
        groups = np.sort(costs[whole].reshape(-1, group), axis=1)
        by_least = groups[np.lexsort((groups[:, -1], groups[:, 0]))]
        assert (by_least[1:, 0] >= by_least[:-1, -1]).all()


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(1, 9)), min_size=1, max_size=60))
def test_packs_move_only_within_their_step(packs):
    steps = np.sort([step for step, _ in packs])
    costs = np.array([cost for _, cost in packs])
    order = order_in_steps(costs, steps, 4)
    assert sorted(order.tolist()) == list(range(len(steps)))
    assert (steps[order] == steps).all()


def test_every_second_group_of_a_step_is_backwards():
    costs = np.array([1.0, 5, 3, 4, 2, 6, 9])
    assert costs[order_in_steps(costs, np.zeros(7, int), 2)].tolist() == [9, 6, 4, 5, 3, 2, 1]


def test_imbalance_by_hand():
    costs, steps = np.array([4.0, 2, 1, 1, 3]), np.array([0, 0, 0, 0, 1])
    assert imbalance(costs, steps, 2).tolist() == [5 / 4, 2.0]
    assert predicted_imbalance(np.ones(64), np.arange(64) // 8)["8"] == {"p50": 1.0, "p99": 1.0}


def test_costs_by_hand():
    costs = pack_costs(np.array([1000, 100]), np.array([400, 0]), np.array([0, 0]), 2)
    assert costs.tolist() == [pytest.approx(64 + 1100 + 2.8e-5 * 1_010_000 + 164), 64]


def mix(count, seed=0):
    """Tokens and patches of screens, photographs and talk."""
    rng = np.random.default_rng(seed)
    visual = rng.choice([0, 256, 391, 646, 1272, 1296], count, p=[0.3, 0.1, 0.3, 0.1, 0.1, 0.1])
    text = np.clip(rng.lognormal(4.7, 1.0, count).astype(int), 20, 2500)
    return visual + text, 4 * visual


def options(**changes):
    return {
        "global_batch": {"tokens": 16 * 4096},
        "steps": None,
        "epochs": 1.0,
        "max_length": 4096,
        "seed": 3,
        **changes,
    }


@pytest.mark.parametrize("max_length", [8192, 16384])
def test_global_packs_are_full_and_ranks_have_the_same_to_do(max_length):
    lengths, patches = mix(60_000)
    chosen = options(max_length=max_length, global_batch={"tokens": 32 * max_length})
    order, packs, steps = arrange(lengths, patches, chosen)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    tokens = loads(lengths[order], packs)
    assert tokens.max() <= max_length and tokens.sum() >= 0.995 * len(steps) * max_length
    ratios = imbalance(pack_costs(lengths[order], patches[order], packs, len(steps)), steps, 8)
    assert np.quantile(ratios[:-1], 0.5) <= 1.03 and np.quantile(ratios[:-1], 0.99) <= 1.1


MODES = [
    {"global_batch": {"samples": 7}},
    {"global_batch": {"samples": 7}, "packing": "flatten", "length_grouped": True},
    {"global_batch": {"samples": 7}, "packing": "none"},
    {"global_batch": {"tokens": 12_288}},
    {"global_batch": {"tokens": 13_000}, "max_patches": 6000},
]


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(MODES),
    st.integers(1, 60),
    st.integers(0, 5),
    st.sampled_from([0.4, 1.0, 2.0, 2.5]),
)
def test_every_sample_is_in_one_pack_an_epoch(mode, count, seed, epochs):
    lengths, patches = mix(count, seed)
    chosen = options(seed=seed, epochs=epochs, **mode)
    order, packs, steps = arrange(lengths, patches, chosen)
    assert (np.diff(packs) >= 0).all() and (np.diff(packs) <= 1).all() and packs[0] == 0
    assert packs[-1] + 1 == len(steps) and (np.diff(steps) >= 0).all()
    assert loads(lengths[order], packs).max() <= 4096
    assert loads(patches[order], packs).max() <= mode.get("max_patches", 10**9)
    times = Counter(order.tolist())
    most, least = max(times.values()), min(times[place] for place in range(count))
    assert most <= np.ceil(epochs) and least >= int(epochs)
    if "samples" in mode["global_batch"]:
        assert (np.bincount(steps[packs])[:-1] == 7).all()
    else:
        assert (np.bincount(steps)[:-1] == mode["global_batch"]["tokens"] // 4096).all()
    again = arrange(lengths, patches, chosen)
    assert all(map(np.array_equal, again, (order, packs, steps)))
    if mode.get("packing"):
        assert (packs == np.arange(len(packs))).all()
    if mode.get("length_grouped"):
        falls = np.diff(lengths[order]) <= 0
        assert falls[np.diff(steps[packs]) == 0].all()


def test_epochs_differ_in_their_packs_and_follow_the_seed():
    lengths, patches = mix(400)

    def packs_of(**changes):
        order, packs, _ = arrange(lengths, patches, options(**changes))
        return [tuple(part) for part in np.split(order, np.flatnonzero(np.diff(packs)) + 1)]

    once, twice = packs_of(), packs_of(epochs=2.0)
    first, second = (set(map(frozenset, part)) for part in (twice[: len(once)], twice[len(once) :]))
    assert len(first & set(map(frozenset, once))) > len(once) - 16  # a step may span both epochs
    assert first != second
    assert packs_of(seed=4) != once


@given(st.integers(1, 40), st.integers(1, 9))
def test_steps_of_tokens_have_as_many_packs_as_asked(count, steps):
    lengths, patches = mix(count)
    chosen = options(steps=steps, epochs=None, global_batch={"tokens": 3 * 4096})
    order, _, of_packs = arrange(lengths, patches, chosen)
    assert np.bincount(of_packs).tolist() == [3] * steps
    times = Counter(order.tolist())
    assert max(times.values()) - min(times[place] for place in range(count)) <= 1


@given(st.sampled_from(MODES), st.integers(1, 60), st.integers(1, 6), st.integers(1, 6))
def test_a_longer_training_begins_as_a_shorter_one(mode, count, steps, more):
    lengths, patches = mix(count)
    changes = {"epochs": None, **mode}
    short = arrange(lengths, patches, options(steps=steps, **changes))
    long = arrange(lengths, patches, options(steps=steps + more, **changes))
    assert long.steps[: len(short.steps)].tolist() == short.steps.tolist()
    assert long.order[: len(short.order)].tolist() == short.order.tolist()
    assert long.packs[: len(short.order)].tolist() == short.packs.tolist()


@given(st.integers(1, 50), st.integers(1, 300), st.integers(0, 9))
def test_draws_of_a_fixed_number_are_by_lot(size, count, seed):
    drawn = redraw(size, count, seed, 0)
    assert len(drawn) == count and drawn.min() >= 0 and drawn.max() < size
    assert redraw(size, count, seed, 0).tolist() == drawn.tolist()


def test_a_fixed_number_of_draws_is_an_epoch():
    lengths, patches = mix(50)
    changes = {"epoch_draws": 1600, "epochs": 2.0, "global_batch": {"samples": 16}}
    order, _, steps = arrange(lengths, patches, options(**changes))
    assert len(order) == 3200 and steps[-1] == 199
    times = Counter(order.tolist())
    assert len(times) == 50 and 30 < min(times.values()) < 64 < max(times.values()) < 110
    assert redraw(1000, 4, 42, 0).tolist() == [20, 317, 623, 253]
    order, _, _ = arrange(lengths, patches, options(epoch_draws=70))
    assert len(order) == 70


@given(
    st.lists(st.tuples(st.integers(1, 100), st.integers(0, 40), st.integers(0, 6)), min_size=1),
    st.sampled_from([None, 60]),
)
def test_given_packs_are_kept_and_cut_only_where_they_are_too_full(samples, most):
    lengths, patches, own = np.array(sorted(samples, key=lambda sample: sample[2])).T
    packs = split_given(lengths, patches, own, CAPACITY, most)
    assert set(np.diff(packs).tolist()) <= {0, 1}
    assert loads(lengths, packs).max() <= CAPACITY
    assert most is None or loads(patches, packs).max() <= most
    for name in set(own.tolist()):
        mine = own == name
        assert not set(packs[mine].tolist()) & set(packs[~mine].tolist())
        if lengths[mine].sum() <= CAPACITY and (most is None or patches[mine].sum() <= most):
            assert len(set(packs[mine].tolist())) == 1


def test_given_packs_are_drawn_whole():
    lengths, patches = mix(30)
    own = np.arange(30) // 2
    chosen = options(packing="given", epochs=2.0, global_batch={"tokens": 5 * 4096})
    order, packs, steps = arrange(lengths, patches, chosen, own)
    assert np.bincount(steps).tolist() == [5] * 6
    pairs = order.reshape(-1, 2)
    assert (pairs[:, 1] == pairs[:, 0] + 1).all() and (
        packs.reshape(-1, 2)[:, 0] == range(30)
    ).all()
    assert Counter(pairs[:, 0].tolist()) == Counter(dict.fromkeys(range(0, 30, 2), 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"packing": "step"}, "packing = 'step' .* tokens; allowed: global, given"),
        ({"packing": "given", "global_batch": {"samples": 3}}, "allowed: step, flatten, none"),
        ({"global_batch": {"tokens": 4095}}, "tokens = 4095; allowed: at least max_length = 4096"),
    ],
)
def test_contradictions_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        packing_of(options(**changes))
