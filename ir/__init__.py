"""WHAT is computed: Programs, the scan combinator, Graphs, and the oracles they are held against."""

from treadle.ir.program import Attr, Builder, Program, build, define
from treadle.ir.registry import definitions
from treadle.ir.scan import Read, Scan

__all__ = ["Attr", "Builder", "Program", "Read", "Scan", "build", "define", "definitions"]
