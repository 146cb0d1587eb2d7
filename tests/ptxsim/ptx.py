"""Kernels of a few lines of PTX, for tests of single rules."""

from treadle.codegen import ptxsim

_HEAD = ".version 8.7\n.target sm_90a\n.address_size 64\n"
_REGISTERS = """
\t.reg .pred %p<10>;
\t.reg .b16 %h<20>;
\t.reg .b32 %r<60>;
\t.reg .f32 %f<20>;
\t.reg .b64 %d<40>;
"""


def kernel(body, params=1, variables="", before=""):
    """A module with the kernel `k` of so many pointers, %d0, %d1, ..., and %r0 the thread's index."""
    names = [f"k_{i}" for i in range(params)]
    declared = ", ".join(f".param .u64 {n}" for n in names)
    loads = "".join(f"\tld.param.u64 %d{i}, [{n}];\n" for i, n in enumerate(names))
    text = f"{_HEAD}{before}\n.visible .entry k({declared})\n{{{_REGISTERS}{variables}\n{loads}\tmov.u32 %r0, %tid.x;\n{body}\n\tret;\n}}\n"
    return ptxsim.load(text, "test")


def line_of(module, needle):
    """The line of the only instruction whose name begins so."""
    (found,) = {i.line for i in module.functions["k"].body if i.name.startswith(needle)}
    return found
