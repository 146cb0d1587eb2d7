"""scan.gspn_adjoint, t2b and b2t: the forward's line in registers, walked the other way.

Exploits: everything the forward exploits (schedules/scan/gspn/line.py), and one thing more: the adjoint reads each gate where
the carry comes from, where it was loaded for that step anyway. So the products travel to the neighbours, not the carry, and
no tensor is read twice or at an address that is not a multiple of 16 bytes.

1. A block per (n, c) line, or several channels side by side; 16-byte accesses where W is a multiple of V.
2. Seven tensors loaded a step ahead (x, lam, dh, three gates, and h two steps ahead: its edges are published too).
3. Four edges a thread through shared memory: two products and both ends of h. One barrier a step, as in the forward.
4. Gates shared by channels (G = 1): the scan leaves its carry, in fp32, where dx and dlam will stand; a second kernel visits
   every pixel once, sums dgates over channels in channel order in fp32, and puts dx and dlam in place. Deterministic, no
   workspace, no limit on C, every multiprocessor busy (schedules/scan/channels.py).

Predicted, not measured, against the floor of 12 tensors (6 + 6/C with shared gates):

    16 x 8 x 1024^2 fp32, G = C   floor 6.44 GB, 1.92 ms at 3.35 TB/s    predicted 2.6-2.9 TB/s (78-87 %): 2.2-2.5 ms
    the same, G = 1, C = 64       floor 6 tensors                        8 tensors of traffic: at most 75 % of the floor's rate,
                                                                         predicted 60-65 %

Compiler's report (nvcc 13.0.88, sm_90a, 2026-11-24, symbolic sizes, default Point): fp32 109-128 registers, carry alone
74-80, sums 32-48, strided 40-62; static shared 8,704 bytes; no stack, no spills. One bar.sync a step in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from treadle.ir import Program
from treadle.schedules.scan import lines
from treadle.schedules.scan.lines import applies, legal, schedule
from treadle.schedules.space import knob
from treadle.schedules.target import Target

__all__ = ["SERIAL", "Knobs", "applies", "default", "legal", "schedule"]

#: Phases are loops of their own and barriers stand between them: the emulation is valid.
SERIAL = True


@dataclass(frozen=True)
class Knobs:
    threads: int = knob(
        256, (32, 64, 128, 256, 512), "threads of a block: more cover longer lines; twelve tensors leave no registers for 1024"
    )
    columns: int = knob(4, (1, 2, 4), "consecutive columns of a thread; 8 would take 230 registers")
    ahead: int = knob(
        1, (1, 3), "steps that loads run ahead: 3 hides more latency where few blocks run, at twice the registers"
    )


def default(program: Program, target: Target) -> Knobs:
    return lines.default(program, target, Knobs, widest=4)
