"""mbarrier: init, arrivals, announced bytes, waits.

An arrival is a strong access to the mbarrier's 64 bits, its init a plain write: whoever arrives or waits without knowing of
the init races with it. try_wait waits until the phase is over. It may give up before, as the ISA allows: now and then under
other seeds than 0, and whenever nobody could go on otherwise; but not twice in a row unless something happened to an mbarrier
in between, so that a loop around it is found to be stuck. test_wait gives up at once, under the same rule.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim.effects import Step, effect
from treadle.codegen.ptxsim.engines import every, refuse_unless, shared_address
from treadle.codegen.ptxsim.gang import Gang
from treadle.codegen.ptxsim.hazards import refuse
from treadle.codegen.ptxsim.machine import Machine
from treadle.codegen.ptxsim.mbarriers import Mbarriers, pending_of, phase_of
from treadle.codegen.ptxsim.schedule import WAITING
from treadle.codegen.ptxsim.syntax import Imm, Instr

_KNOWN = {
    "release", "relaxed", "acquire", "cta", "cluster", "shared", "shared::cta", "shared::cluster", "b64", "noComplete", "expect_tx",
    "parity",
}  # fmt: skip


def _check(instr: Instr) -> None:
    refuse_unless(all(x in _KNOWN for x in instr.mods[1:]), instr)


@effect("mbarrier.init")
def init(instr: Instr, m: Machine) -> Step:
    _check(instr)
    all_of_them = m.part(Mbarriers)
    address, count = shared_address(instr.operands[0], instr, m), m.reader(instr.operands[1], "u32", instr)

    def step(gang: Gang) -> None:
        at = address(gang)
        m.shared.store(gang, at, np.zeros((gang.n, 1), np.uint64))
        for i, (a, c) in enumerate(zip(at.tolist(), every(count, gang), strict=True)):
            all_of_them.init(Gang(gang.threads[i : i + 1]), a, c)

    return step


@effect("mbarrier.inval")
def invalidate(instr: Instr, m: Machine) -> Step:
    _check(instr)
    all_of_them = m.part(Mbarriers)
    address = shared_address(instr.operands[0], instr, m)

    def step(gang: Gang) -> None:
        at = address(gang)
        m.shared.store(gang, at, np.zeros((gang.n, 1), np.uint64))
        for i, a in enumerate(at.tolist()):
            all_of_them.invalidate(Gang(gang.threads[i : i + 1]), a)

    return step


@effect("mbarrier.arrive", "mbarrier.arrive_drop")
def arrive(instr: Instr, m: Machine) -> Step:
    """`mbarrier.arrive state, [addr]{, count}`, and with .expect_tx `state, [addr], bytes`."""
    _check(instr)
    all_of_them = m.part(Mbarriers)
    mods = instr.mods
    drops, announces, releases = mods[0] == "arrive_drop", "expect_tx" in mods, "relaxed" not in mods
    target, where, *more = instr.operands
    put, address = m.writer(target, "b64", instr), shared_address(where, instr, m)
    number = m.reader(more[0] if more else Imm(1), "u32", instr)
    may_complete = "noComplete" not in mods

    def step(gang: Gang) -> None:
        at = address(gang)
        m.shared.atomic(gang, at, 8)
        states = np.empty(gang.n, np.uint64)
        for a in np.unique(at).tolist():
            mine = np.flatnonzero(at == a)
            barrier = all_of_them.find(gang, mine, a)
            if releases:
                barrier.add(m.order.release(np.unique(gang.warp_of[mine])))
            numbers = np.broadcast_to(number(gang), (gang.n,))
            for i in mine.tolist():
                states[i] = barrier.state
                if announces:
                    all_of_them.expect(barrier, gang, i, int(numbers[i]))
                count = 1 if announces else int(numbers[i])
                if drops:
                    barrier.expected -= count
                all_of_them.arrive(barrier, gang, i, count, may_complete)
        put(gang, states)

    return step


@effect("mbarrier.expect_tx", "mbarrier.complete_tx")
def transaction(instr: Instr, m: Machine) -> Step:
    _check(instr)
    all_of_them = m.part(Mbarriers)
    address, number = shared_address(instr.operands[0], instr, m), m.reader(instr.operands[1], "u32", instr)
    act = all_of_them.expect if instr.mods[0] == "expect_tx" else all_of_them.complete

    def step(gang: Gang) -> None:
        at = address(gang)
        m.shared.atomic(gang, at, 8)
        for i, (a, n) in enumerate(zip(at.tolist(), every(number, gang), strict=True)):
            act(all_of_them.find(gang, np.array([i]), a), gang, i, n)

    return step


@effect("mbarrier.pending_count")
def pending_count(instr: Instr, m: Machine) -> Step:
    put, get = m.writer(instr.operands[0], "u32", instr), m.reader(instr.operands[1], "b64", instr)
    return lambda gang: put(gang, pending_of(get(gang)))


@effect("mbarrier.test_wait", "mbarrier.try_wait")
def wait(instr: Instr, m: Machine) -> Step:
    """`try_wait{.parity} over, [addr], state or parity{, hint}`."""
    _check(instr)
    all_of_them = m.part(Mbarriers)
    by_parity, tests, acquires = "parity" in instr.mods, instr.mods[0] == "test_wait", "relaxed" not in instr.mods
    put, address = m.writer(instr.operands[0], "pred", instr), shared_address(instr.operands[1], instr, m)
    token = m.reader(instr.operands[2], "u32" if by_parity else "b64", instr)
    here = m.here
    told = np.full(m.threads, -1)  # the count of progress at which a thread was last told "not yet"
    giving_up = np.zeros(m.threads, bool)

    def relent() -> bool:
        stuck = (m.state == WAITING) & (m.pc == here) & (told != all_of_them.progress)
        giving_up[stuck] = True
        return bool(stuck.any())

    def reset() -> None:
        told.fill(-1)
        giving_up.fill(False)

    m.relents.append(relent)
    m.resets.append(reset)

    def over(gang: Gang, at: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        tokens = np.broadcast_to(token(gang), (gang.n,))
        done, phases = np.zeros(gang.n, bool), np.zeros(gang.n, np.int64)
        for a in np.unique(at).tolist():
            mine = at == a
            barrier = all_of_them.find(gang, np.flatnonzero(mine), a)
            given: Any = tokens[mine]
            done[mine] = (given & 1) != barrier.phase & 1 if by_parity else phase_of(given) < barrier.phase
            phases[mine] = barrier.phase if by_parity else 1 << 62  # a state cannot be overtaken
            if acquires and barrier.known is not None and (passed := mine & done).any():
                m.order.acquire(np.unique(gang.warp_of[passed]), barrier.known)
        return done, phases

    def step(gang: Gang) -> NDArray[np.bool_] | None:
        at = address(gang)
        m.shared.load(gang, at, 8, 1, True)
        done, phases = over(gang, at)
        threads = gang.threads
        if done.all():
            all_of_them.waits_at[threads] = -1
            giving_up[threads] = False
            put(gang, done)
            return None
        fresh = told[threads] != all_of_them.progress
        gives_up = ~done & (giving_up[threads] | (fresh & (tests | m.scheduler.now_and_then(gang.n))))
        told[threads[gives_up]] = all_of_them.progress
        goes_on = done | gives_up
        if goes_on.any():
            going = gang.narrow(goes_on)
            all_of_them.waits_at[going.threads] = -1
            giving_up[going.threads] = False
            put(going, done[goes_on])
        blocked = ~goes_on
        all_of_them.waits_at[threads[blocked]] = at[blocked]
        all_of_them.waits_for[threads[blocked]] = phases[blocked]
        return blocked

    step.explain = all_of_them.explain  # type: ignore[attr-defined]
    return step


@effect("fence.mbarrier_init")
def fence(instr: Instr, m: Machine) -> Step:
    if instr.mods[1:] != ("release", "cluster"):
        raise refuse(instr)
    all_of_them = m.part(Mbarriers)
    return lambda gang: all_of_them.fence(gang.warps)


@effect("fence.proxy.async", "fence.proxy.async.global", "fence.proxy.async.shared::cta", "fence.proxy.async.shared::cluster")
def proxy_fence(instr: Instr, m: Machine) -> Step:
    """The machine does not tell the fences of the two state spaces apart."""
    refuse_unless(len(instr.mods) <= 3, instr)
    return lambda gang: m.order.proxy_fence(gang.warps)


@effect("fence.proxy.tensormap::generic", "fence.proxy.alias")
def other_proxies(instr: Instr, m: Machine) -> Step:
    """Kernels that change tensor maps, or memory under several addresses, are not told from others: a plain fence."""
    return lambda gang: m.order.fence(gang.warps)
