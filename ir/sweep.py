"""A sweep: scans over one space that share what they read, add up what they write, and keep between them what nobody else wants.

Three things then never touch memory, each stated where it is used:

* a Read may be of a tensor expression (gates made from logits): its values are made at each position, from whatever it reads;
* an Output whose tensor no result of the Program is stays with the walk: a later scan of the sweep, or a tensor expression
  that an Output of the same scan gives, reads it at the same position;
* what several scans write to the same place is added up, and written once.

An Output whose place depends on neither walk nor line is the sum of its values over both.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import te

from treadle.ir.scan import Scan


@dataclass(frozen=True)
class Sweep:
    """Scans in an order in which each finds what it reads; all share the independent axes."""

    scans: tuple[Scan, ...]
    results: tuple[te.Tensor, ...]
