"""Warpgroups: four warps that issue wgmma together, the groups of products they wait for, and the registers those hold.

Products are made when they are issued. What the ISA forbids until the wait is forbidden here by watching all instructions that
name a register of any wgmma: an accumulator may not be touched, a register of A not be changed. After such an instruction has
touched one, a wgmma.fence must come before the next product that uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from treadle.codegen.ptxsim.effects import Step
from treadle.codegen.ptxsim.engines import Engines
from treadle.codegen.ptxsim.gang import WARP, Gang
from treadle.codegen.ptxsim.hazards import DivergenceHazard, PendingHazard
from treadle.codegen.ptxsim.products import Product
from treadle.codegen.ptxsim.syntax import Addr, Instr, Not, Operand, Pair, Reg, Vec

if TYPE_CHECKING:
    from treadle.codegen.ptxsim.machine import Machine

SIZE = 4 * WARP
_PRODUCT = ("wgmma", "mma_async")


@dataclass
class Held:
    """A register that a product under way uses."""

    group: int
    product: Product
    accumulates: bool
    where: str


@dataclass
class Group:
    """A warpgroup's state."""

    fenced: bool = False  # whether ever
    touched: set[str] = field(default_factory=set)  # registers of products that other instructions used since the last fence
    held: dict[str, Held] = field(default_factory=dict)
    committed: int = 0
    agent: int | None = None  # of the products since the last commit
    agents: dict[int, int] = field(default_factory=dict)  # ... of groups that were committed


class Warpgroups:
    """All warpgroups of a cohort, by their first thread."""

    def __init__(self, m: Machine) -> None:
        self.m = m
        m.resets.append(self.reset)
        m.when_bound.append(self._watch)
        self.reset()

    def reset(self) -> None:
        """A new cohort."""
        self.of: dict[int, Group] = {}

    def group(self, first: int) -> Group:
        """The state of the warpgroup whose first thread is given."""
        return self.of.setdefault(first, Group())

    def first_of(self, threads: NDArray[np.intp]) -> NDArray[np.intp]:
        """Each thread's warpgroup."""
        within: NDArray[np.intp] = threads % self.m.cta_stride
        return threads - within % SIZE

    def together(self, act: Callable[[Gang, Group], None]) -> Step:
        """The step of an instruction that all 128 threads of a warpgroup must execute."""
        m = self.m
        parked, passed = np.zeros(m.threads, bool), np.zeros(m.threads, bool)

        def reset() -> None:
            parked.fill(False)
            passed.fill(False)

        m.resets.append(reset)

        def step(gang: Gang) -> NDArray[np.bool_] | None:
            threads = gang.threads
            fresh = threads[~passed[threads]]
            parked[fresh] = True
            for first in np.unique(self.first_of(fresh)).tolist():
                members = slice(first, first + SIZE)
                if first % m.cta_stride + SIZE > m.cta_threads or not m.alive()[members].all():
                    raise m.hazard(
                        DivergenceHazard, "the warpgroup is not whole: threads have left, or were never there", gang, 0
                    )
                if parked[members].all():
                    parked[members] = False
                    act(Gang(np.arange(first, first + SIZE)), self.group(first))
                    passed[members] = True
                    m.changed()
            going = passed[threads]
            passed[threads[going]] = False
            return ~going

        def explain(threads: NDArray[np.intp]) -> str:
            return "the other threads of its warpgroup"

        step.explain = explain  # type: ignore[attr-defined]
        return step

    # -- groups of products --------------------------------------------------------------------------------------------

    def agent(self, gang: Gang, group: Group) -> int:
        """The agent of the group that is being filled, knowing what each of the four warps knows now."""
        order = self.m.order
        if group.agent is None:
            group.agent = self.m.part(Engines).agent(gang.warps)
        else:
            order.acquire(group.agent, order.seen[gang.warps].min(axis=0))
        return group.agent

    def commit(self, gang: Gang, group: Group) -> None:
        """The products since the last commit are a group."""
        if group.agent is not None:
            group.agents[group.committed] = group.agent
        group.agent = None
        group.committed += 1

    def wait(self, gang: Gang, group: Group, left: int) -> None:
        """All but the newest `left` groups are over."""
        over = group.committed - left
        for number in [n for n in group.agents if n < over]:
            self.m.order.acquire(gang.warps, self.m.part(Engines).finished(group.agents.pop(number)))
        group.held = {name: held for name, held in group.held.items() if held.group >= over}

    def hold(self, gang: Gang, group: Group, product: Product, accumulators: list[str], operands: list[str]) -> None:
        """A product takes its registers: checks that it may."""
        m = self.m
        dirty = [n for n in (*accumulators, *operands) if n in group.touched]
        if not group.fenced or dirty:
            what = f"{dirty[0]} was used" if dirty else "there was none yet"
            raise m.hazard(PendingHazard, f"a wgmma.fence is missing before this product: since the last one, {what}", gang, 0)
        for name in accumulators:
            held = group.held.get(name)
            if held is not None and (not held.accumulates or held.product != product):
                raise m.hazard(PendingHazard, f"the product at {held.where}, of another shape, still holds {name}", gang, 0)
        for name in operands:
            if name in group.held and group.held[name].accumulates:
                raise m.hazard(
                    PendingHazard, f"{name} is still an accumulator of the product at {group.held[name].where}", gang, 0
                )
        where = m.entry.body[m.here].where
        for names, accumulates in ((operands, False), (accumulators, True)):
            for name in names:
                group.held[name] = Held(group.committed, product, accumulates, where)

    # -- other instructions --------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Wrap the steps of all instructions that name a register of any product."""
        m = self.m
        watched: set[str] = set()
        for instr in m.entry.body:
            if (instr.opcode, *instr.mods[:1]) == _PRODUCT:
                watched |= {r for o in instr.operands if isinstance(o, Vec) for r in names(o)}
        for pc, instr in enumerate(m.entry.body):
            if (instr.opcode, *instr.mods[:1]) == _PRODUCT:
                continue
            used = {r for o in instr.operands for r in names(o)} & watched
            if used:
                writes = set(names(instr.operands[0])) if instr.opcode not in ("st", "red", "stmatrix") else set()
                kind, step, guarded = m.steps[pc]
                m.steps[pc] = kind, self._watched(step, used, used & writes), guarded

    def _watched(self, step: Any, used: set[str], written: set[str]) -> Any:
        def watched(gang: Gang) -> Any:
            for first in np.unique(self.first_of(gang.threads)).tolist():
                group = self.group(first)
                if group.held:
                    self._refuse(gang, group, used, written)
                group.touched |= used
            return step(gang)

        return watched

    def _refuse(self, gang: Gang, group: Group, used: set[str], written: set[str]) -> None:
        for name in sorted(used):
            held = group.held.get(name)
            if held is not None and (held.accumulates or name in written):
                raise self.m.hazard(
                    PendingHazard, f"{name} belongs to the product that wgmma began at {held.where}: no wgmma.wait_group since", gang, 0
                )  # fmt: skip


def names(operand: Operand) -> Iterator[str]:
    """The registers that an operand names."""
    match operand:
        case Reg(name):
            yield name
        case Not(of):
            yield from names(of)
        case Vec(items):
            for item in items:
                yield from names(item)
        case Pair(first, second):
            yield from names(first)
            yield from names(second)
        case Addr(base, _, rest):
            for item in (base, *rest):
                yield from names(item)


def register_names(instr: Instr, index: int) -> list[str]:
    """Those of one operand where it is a vector of registers, none of a descriptor."""
    operand = instr.operands[index]
    return list(names(operand)) if isinstance(operand, Vec) else []
