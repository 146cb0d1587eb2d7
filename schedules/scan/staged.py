"""A line in registers, fed by a ring of stages in shared memory that cp.async fills many steps ahead.

Registers can hold what one or two steps need, and the compiler decides how long they wait. A stage in shared memory costs no
registers and its copy no thread: `ahead` steps are on their way at any time. Each thread copies what it will itself read, so
that nobody else has to know when a copy has landed: `cp.async.wait_group` and no barrier beyond the one of the step. That
barrier also keeps a slot's next copy behind its last read: the ring has one slot more than steps ahead.

On the CPU a copy is a copy: the mapping is held against the oracle there too.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from treadle.ir.expr import Expr
from treadle.ir.scan import Scan
from treadle.schedules.scan import kernel as k
from treadle.schedules.scan import registers
from treadle.schedules.scan.kernel import int64
from treadle.schedules.scan.registers import Buffers, Member, Shape
from treadle.schedules.target import Target


def shared_bytes(scan: Scan, shape: Shape) -> int:
    """The ring of a block, and the edges."""
    own = shape.lanes * shape.threads * shape.columns * (shape.ahead + 1)
    ring = sum(own * k.itemsize(str(s.tensor.dtype)) for s in registers.held(scan))
    return ring + registers.shared_bytes(scan, shape)


def refusals(scan: Scan, target: Target, *shapes: Shape) -> list[str]:
    reasons = []
    for kind in sorted({str(s.tensor.dtype) for s in registers.held(scan)}):
        moved = shapes[0].columns * k.itemsize(kind)
        if moved < 4:
            reasons.append(f"{shapes[0].columns} columns of {kind} are {moved} bytes; cp.async moves 4, 8 or 16")
    need = max(shared_bytes(scan, s) for s in shapes)
    for gpu in target.gpus:
        if "cp.async" not in gpu.features:
            reasons.append(f"{gpu.arch} has no cp.async, by which the {shapes[0].ahead + 1} stages are filled")
        if need > gpu.shared_bytes:
            reasons.append(f"a ring of {shapes[0].ahead + 1} steps takes {need} bytes; a block of {gpu.arch} has {gpu.shared_bytes}")
    return reasons


def emit(scan: Scan, buffers: Buffers, shape: Shape, pieces: Expr, asynchronous: bool) -> None:
    with k.grid(scan, shape.lanes) as block:
        Line(scan, buffers, shape, pieces, block, asynchronous).emit()


class Line(registers.Line):
    def __init__(
        self, scan: Scan, buffers: Buffers, shape: Shape, pieces: Expr, block: k.Block, asynchronous: bool
    ) -> None:
        super().__init__(scan, buffers, shape, pieces, block)
        self.asynchronous, self.slots = asynchronous, shape.ahead + 1
        size = [int64(n) for n in (self.slots, shape.lanes, shape.threads, shape.columns)]
        self.ring = k.Arena([(size, str(s.tensor.dtype)) for s in self.streams]).buffers

    def _sets(self) -> int:
        return 1

    def _load(self, step: Expr, into: int, tx: Expr, ty: Expr) -> None:
        super()._load(step, into, tx, ty)
        if self.asynchronous:
            T.evaluate(T.ptx["cp.async.commit_group"]())

    def _fetch(self, member: Member, i: int, row: Expr, into: int, step: Expr, tx: Expr, ty: Expr) -> None:
        rows, slot = self.rows[i], tirx.floormod(step, self.slots)
        if not self.asynchronous:
            rows.load(row, self.piece(tx), self.exists, self.ring[i], [slot, ty, tx])
            return
        assert rows.pieces is not None
        nbytes = rows.vector * k.itemsize(str(rows.tensor.dtype))
        copy = T.ptx[f"cp.async.{'cg' if nbytes == 16 else 'ca'}.shared.global"]
        for first in range(0, self.shape.columns, rows.vector):
            source = rows.flat[(row * rows.pieces + self.piece(tx)) * self.shape.columns + first]
            T.evaluate(copy(T.address_of(self.ring[i][slot, ty, tx, first]), T.address_of(source), nbytes))

    def _arrived(self, step: Expr, tx: Expr, ty: Expr) -> None:
        if self.asynchronous:
            T.evaluate(T.ptx["cp.async.wait_group"](self.shape.ahead))
        with k.when(step < self.scan.steps):
            for i, loaded in enumerate(self.members[0].loaded[0]):
                for first in range(0, self.shape.columns, self.rows[i].vector):
                    with T.vectorized(self.rows[i].vector) as v:
                        T.buffer_store(
                            loaded, self.ring[i][tirx.floormod(step, self.slots), ty, tx, first + v], [ty, tx, first + v]
                        )
