"""Mistakes that tests plant in a Scan, and that the tests of every schedule must catch."""

from __future__ import annotations

from dataclasses import replace

from treadle.ir.scan import Scan, Term


def outer_gates_exchanged(scan: Scan) -> Scan:
    first, middle, last = scan.terms
    return replace(scan, terms=(Term(first.offset, last.weight), middle, Term(last.offset, first.weight)))


MUTATIONS = {
    "none": lambda scan: scan,
    "outer gates exchanged": outer_gates_exchanged,
    "chunk leak": lambda scan: replace(scan, chunk=0),
    "walked the other way": lambda scan: replace(scan, reverse=not scan.reverse),
    "chunks from the other end": lambda scan: replace(scan, from_end=not scan.from_end),
}
