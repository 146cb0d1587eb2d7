"""The shadow memory against a plain model: races found are exactly the unordered pairs."""

import numpy as np
import pytest

from treadle.codegen.ptxsim.order import Order, Shadow


def shadow_of(order, granules):
    return Shadow(order, np.zeros(granules, np.int64), np.zeros((order.warps, granules), np.int64))


def one(value):
    return np.array([value])


class Model:
    """Happens-before by full history: every access of a granule is kept, with the vector clock of its thread."""

    def __init__(self, warps, lanes):
        self.n, self.lanes = warps * lanes, lanes
        self.clock = np.eye(self.n, dtype=int)
        self.history = {}

    def access(self, warp, lane, at, write):
        me = warp * self.lanes + lane
        past = self.history.setdefault(at, [])
        races = any((write or w) and other != me and when > self.clock[me][other] for other, when, w in past)
        past.append((me, self.clock[me][me], write))
        return races

    def meet(self, threads):
        known = self.clock[threads].max(axis=0)
        self.clock[threads] = known
        for t in threads:
            self.clock[t][t] += 1


@pytest.mark.parametrize("seed", range(40))
def test_random_histories(seed):
    """Random reads, writes, warp syncs and barriers of some warps. Per history the first race ends it, as it does a kernel."""
    random = np.random.default_rng(seed)
    warps, lanes = 3, 4
    for _ in range(40):
        order = Order(warps)
        shadow, model = shadow_of(order, 4), Model(warps, lanes)
        for _ in range(60):
            kind = random.random()
            warp, lane, at = random.integers(warps), random.integers(lanes), random.integers(4)
            if kind < 0.25:
                some = np.flatnonzero(random.random(warps) < 0.6)
                if len(some):
                    order.meet(some)
                    model.meet(np.concatenate([np.arange(w * lanes, (w + 1) * lanes) for w in some]))
            elif kind < 0.35:
                order.tick(one(warp))
                model.meet(np.arange(warp * lanes, (warp + 1) * lanes))
            else:
                write = kind < 0.55
                note = shadow.note_write if write else shadow.note_read
                found = bool(note(one(at), one(warp), one(lane))[0])
                expected = model.access(warp, lane, at, write)
                assert found == expected
                if found:
                    break


def test_lanes_that_write_one_granule_at_once_race():
    shadow = shadow_of(Order(1), 2)
    agents = np.zeros(2, int)
    assert not shadow.note_write(np.array([0, 1]), agents, np.arange(2)).any()
    assert shadow.note_write(np.array([0, 0]), agents, np.array([0, 1])).any()


def test_lanes_that_read_at_once_are_both_met_by_a_write():
    for writer in (0, 1):
        shadow = shadow_of(Order(1), 1)
        assert not shadow.note_read(np.zeros(2, int), np.zeros(2, int), np.arange(2)).any()
        assert shadow.note_write(one(0), one(0), one(writer)).any()


def test_a_new_cohort_has_seen_the_past():
    order = Order(2)
    shadow = shadow_of(order, 1)
    shadow.note_write(one(0), one(0), one(3))
    order.begin(order.latest)
    assert not shadow.note_write(one(0), one(1), one(0)).any()
    assert not shadow.note_read(one(0), one(1), one(0)).any()


def test_strong_accesses_do_not_race_with_each_other_and_do_with_plain_ones():
    shadow = shadow_of(Order(2), 1)
    assert not shadow.note_write(one(0), one(0), one(0), strong=True).any()
    assert not shadow.note_write(one(0), one(1), one(0), strong=True).any()
    assert shadow.note_read(one(0), one(0), one(0)).any()


def test_what_an_engine_may_see():
    order = Order(2)
    writes = order.seen[0, 0]
    order.meet(np.arange(2))
    assert not order.crossed(1, one(0), one(writes))[0]
    order.proxy_fence(one(1))
    assert order.crossed(1, one(0), one(writes))[0]  # the issuer's own fence, after the barrier
    later = order.seen[0, 0]
    order.proxy_fence(one(0))
    assert order.crossed(1, one(0), one(later))[0]  # the writer's, before it
    assert not order.crossed(1, one(0), one(order.seen[0, 0]))[0]
