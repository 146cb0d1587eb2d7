"""A cohort of CTAs (one cluster, or one CTA) that executes a kernel, all its threads held in arrays.

A step runs for a gang: threads that stand at the same instruction. Every thread has a program counter; divergent paths are
gangs of their own, and which gang goes next is the scheduler's choice. Nothing depends on that choice but the order of
accesses that nothing else orders, and those are found whatever the order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim import bind, special, types
from treadle.codegen.ptxsim.bind import BRANCH, EFFECT, INDEXED, PURE
from treadle.codegen.ptxsim.device_memory import DeviceMemory, Global
from treadle.codegen.ptxsim.gang import WARP, Gang
from treadle.codegen.ptxsim.hazards import DeadlockHazard, HazardError, Place, TrapHazard
from treadle.codegen.ptxsim.layout import Layout, layout, smallest_access
from treadle.codegen.ptxsim.memory import RANK_SHIFT, Engine
from treadle.codegen.ptxsim.order import Order
from treadle.codegen.ptxsim.register_file import Get, Operands
from treadle.codegen.ptxsim.schedule import EXITED, WAITING, Scheduler
from treadle.codegen.ptxsim.spaces import Local, Param, Shared
from treadle.codegen.ptxsim.syntax import Function, Instr, Module

Part = TypeVar("Part")
Dims = tuple[int, int, int]
Step = tuple[int, Any, Get | None]
#: Generic addresses: the upper 16 bits say which window; device pointers have none of them set.
WINDOWS = {"global": 0, "const": 0, "shared": 1 << 48, "local": 2 << 48, "param": 3 << 48}


class Deferred(Protocol):
    """An asynchronous operation under way. The scheduler completes it when it likes, last of all by default."""

    def complete(self) -> None:
        """Let its results be seen."""


class Machine(Operands):
    """One kernel, bound for one shape of launch. `run` executes cohort after cohort on it."""

    def __init__(
        self, module: Module, entry: Function, grid: Dims, block: Dims, cluster: Dims, dynamic_shared: int,
        memory: DeviceMemory, symbols: dict[str, int], arch: str,
    ) -> None:  # fmt: skip
        self.module, self.entry, self.arch, self.memory = module, entry, arch, memory
        self.grid, self.block, self.cluster = grid, block, cluster
        self.cta_threads = int(np.prod(block))
        self.ctas = int(np.prod(cluster))
        # Warps are CTA by CTA: a last, partial warp is filled up with threads that never run.
        self.cta_stride = -(-self.cta_threads // WARP) * WARP
        self.threads = self.ctas * self.cta_stride
        self.warps = self.threads // WARP
        self.layout: Layout = layout(module, entry, dynamic_shared)
        self.dynamic_shared = dynamic_shared
        self._symbols = symbols
        self.registers = {
            name: np.zeros(self.threads, types.raw(t)) for name, t in (*entry.registers.items(), (bind.CARRY.name, "pred"))
            if types.dtype(t) is not None
        }  # fmt: skip
        self.specials = special.registers(self)
        self.executed = 0
        self.clocks: dict[str, Callable[[], Any]] = {
            "%clock": lambda: np.uint32(self.executed & 0xFFFFFFFF), "%clock64": lambda: np.uint64(self.executed),
            "%globaltimer": lambda: np.uint64(self.executed), "%globaltimer_lo": lambda: np.uint32(self.executed & 0xFFFFFFFF),
        }  # fmt: skip
        granule = smallest_access(entry)
        self.order = Order(self.warps)
        self.shared = Shared(self, self.order, granule)
        self.global_ = Global(self, self.order, memory, granule)
        self.local = Local(self, self.layout.local_bytes)
        self.param = Param(self, self.layout.param_bytes)
        self.deferred: list[Deferred] = []
        self.resets: list[Callable[[], None]] = []  # effects put here what forgets one cohort
        self.checks_at_exit: list[Callable[[], None]] = []  # ... and what must hold when all threads have left
        self.published: dict[tuple[str, int], NDArray[np.int64]] = {}  # space and address -> what a strong write hands on
        self.barriers: Any = None  # of effects/barrier.py
        self.parts: dict[Callable[[Machine], Any], Any] = {}  # what several effects share
        self.engines: dict[int, list[tuple[int, str]]] = {}  # of agents that are not warps: since which clock they do what
        self.relents: list[Callable[[], bool]] = []  # waits that may give up; asked when nobody can go on
        self.when_bound: list[Callable[[], None]] = []  # for effects that look at other instructions' steps
        self.version = 0  # counts whatever may let a waiting thread go on
        self.scheduler = Scheduler(self)
        self._current = 0
        self.steps: list[Step] = []
        self.explain: dict[int, Callable[[NDArray[np.intp]], str]] = {}  # what threads waiting at an instruction wait for
        self._leaders = {*entry.labels.values()}
        for pc, instr in enumerate(entry.body):
            self._current = pc
            step = self.bound(instr)
            if explain := getattr(step[1], "explain", None):
                self.explain[pc] = explain
                self._leaders.add(pc + 1)  # where those who waited meet again
            self.steps.append(step)
        for finish in self.when_bound:
            finish()

    def bound(self, instr: Instr) -> Step:
        """What executes an instruction."""
        return bind.step(instr, self)

    # -- one cohort ----------------------------------------------------------------------------------------------------

    def run(self, number: int, seed: int, budget: int) -> None:
        """Execute the cohort of that number, in the order that the seed decides."""
        special.enter(self, number)
        self.pc = np.zeros(self.threads, np.int64)
        self.state = np.zeros(self.threads, np.int8)
        self.state[np.arange(self.threads) % self.cta_stride >= self.cta_threads] = EXITED
        self.order.begin(self.memory.past)
        self.shared.reset()
        self.local.reset()
        self.global_.begin_cohort(number)
        self.deferred.clear()
        self.published.clear()
        for reset in self.resets:
            reset()
        self.scheduler.begin(seed)
        until = self.executed + budget
        while (chosen := self.scheduler.next()) is not None:
            self._advance(*chosen)
            if self.executed > until:
                raise self.hazard(
                    DeadlockHazard, f"no end after {budget:,} thread-instructions: a loop that spins for what never comes, "
                    "or another CTA (which run one after another)", Gang(chosen[0].threads), 0,
                )  # fmt: skip
        for op in self.deferred[:]:
            op.complete()
        for check in self.checks_at_exit:
            check()
        self.memory.past = self.order.latest

    def _advance(self, gang: Gang, pc: int) -> None:
        """Let a gang go on until it splits, waits, ends, or comes to where others might join it."""
        steps, leaders, count = self.steps, self._leaders, np.count_nonzero
        alone = self.scheduler.alone(gang)
        version, hops = self.version, 0
        while True:
            kind, fn, guarded = steps[pc]
            self._current = pc
            acting = gang
            self.executed += gang.n
            if guarded is not None:
                mask = guarded(gang)
                held = int(count(mask))
                if not held:
                    pc += 1
                    if pc in leaders and not alone:
                        break
                    continue
                if held < gang.n:
                    if kind == BRANCH:
                        self.pc[gang.threads] = np.where(mask, fn, pc + 1)
                        return
                    acting = gang.narrow(mask)
            if kind == PURE:
                fn(acting)
                pc += 1
            elif kind == BRANCH:
                pc, hops = fn, hops + 1
                if not alone or self.version != version or self.deferred or hops > 1000:
                    break
                continue
            elif kind == EFFECT:
                waits = fn(acting)
                pc += 1
                if waits is not None and waits.any():
                    self.pc[gang.threads] = pc
                    blocked = acting.threads[waits]
                    self.pc[blocked] = pc - 1
                    self.state[blocked] = WAITING
                    return
                if self.version != version:  # who waited may stand just behind
                    break
            elif kind == INDEXED:
                self.pc[gang.threads] = pc + 1
                self.pc[acting.threads] = fn(acting)
                return
            else:
                self._exit(acting, fn)
                if acting.n < gang.n:
                    self.pc[gang.threads] = pc + 1
                return
            if pc in leaders and not alone:
                break
        self.pc[gang.threads] = pc

    def _exit(self, gang: Gang, trap: str | None) -> None:
        if trap:
            raise self.hazard(TrapHazard, f"the kernel stopped itself: {trap}", gang, 0)
        self.state[gang.threads] = EXITED
        self.changed()
        if self.ctas > 1:
            there = self.alive().reshape(self.ctas, -1)
            for rank in np.unique(self.cta_of(gang)).tolist():
                if not there[rank].any():
                    self.shared.leave(rank)

    # -- for effects ---------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Something happened that waiting threads may have waited for."""
        self.version += 1

    def defer(self, op: Deferred) -> None:
        """Work that goes on beside the threads."""
        self.deferred.append(op)

    def part(self, kind: Callable[[Machine], Part]) -> Part:
        """The one object of a kind that effects share, made on first use."""
        if kind not in self.parts:
            self.parts[kind] = kind(self)
        made: Part = self.parts[kind]
        return made

    def hazard(
        self, kind: type[HazardError], message: str, actor: Gang | Engine | None, index: int, address: int | None = None
    ) -> HazardError:
        """The error for what an actor's `index`-th thread did."""
        if isinstance(actor, Engine):
            return kind(message, place=actor.place, address=address)
        return kind(message, place=self.place(int(actor.threads[index]) if actor is not None else 0), address=address)

    def place(self, thread: int, pc: int | None = None) -> Place:
        """Where a thread stands: at the current instruction unless told."""
        instr = self.entry.body[self._current if pc is None else pc]
        cta, within = divmod(thread, self.cta_stride)
        bx, by, _ = self.block
        xyz = (within % bx, within // bx % by, within // (bx * by))
        return Place(self.entry.name, special.cta_index(self, cta), xyz, instr.where, instr.name)

    def agent_name(self, agent: int, lane: int, clock: int = 0) -> str:
        """An agent of the shadow, in words; of an engine, what it did at that time."""
        if agent >= self.warps:
            return next(text for since, text in reversed(self.engines[agent]) if since <= clock)
        cta, warp = divmod(agent * WARP, self.cta_stride)
        lanes = f"thread {warp + lane}" if lane < WARP else f"warp {warp // WARP}"
        return f"{lanes} of CTA {special.cta_index(self, cta)}"

    @property
    def here(self) -> int:
        """The instruction being executed or bound."""
        return self._current

    def cta_of(self, gang: Gang) -> NDArray[np.int64]:
        """Each thread's CTA in the cohort: its rank in the cluster."""
        return gang.threads // self.cta_stride

    def alive(self) -> NDArray[np.bool_]:
        """Threads that have not exited."""
        return self.state != EXITED

    def window(self, space: str) -> int | None:
        """The base of a state space in generic addresses."""
        return WINDOWS.get(space)

    def space(self, name: str) -> Any:
        """A state space by its name in PTX."""
        return {
            "global": self.global_, "const": self.global_, "shared": self.shared, "local": self.local, "param": self.param,
        }.get(name)  # fmt: skip

    # -- operands ------------------------------------------------------------------------------------------------------

    def special(self, name: str) -> NDArray[Any] | None:
        return self.specials.get(name)

    def symbol(self, name: str) -> NDArray[np.uint64] | None:
        where = self.layout
        if name in where.shared:
            ranks = np.arange(self.threads, dtype=np.uint64) // np.uint64(self.cta_stride)
            return (ranks << np.uint64(RANK_SHIFT)) + np.uint64(where.shared[name][0])
        for space in (where.local, where.params):
            if name in space:
                return np.array(space[name][0], np.uint64)
        return np.array(self._symbols[name], np.uint64) if name in self._symbols else None
