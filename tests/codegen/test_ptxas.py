"""The assembler's report, read."""

from treadle.codegen.ptxas import Usage, parse

LOG = """\
ptxas info    : 0 bytes gmem, 24 bytes cmem[4]
ptxas info    : Compiling entry function 'a_kernel' for 'sm_80'
ptxas info    : Function properties for a_kernel
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers, 376 bytes cmem[0]
ptxas info    : Compile time = 5.789 ms
ptxas info    : Compiling entry function 'b_kernel' for 'sm_80'
ptxas info    : Function properties for b_kernel
    40 bytes stack frame, 36 bytes spill stores, 44 bytes spill loads
ptxas info    : Function properties for __internal_helper
    64 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 255 registers, used 2 barriers, 40 bytes cumulative stack size, 49152 bytes smem
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized in 'b_kernel'
ptxas info    : Compiling entry function 'a_kernel' for 'sm_90a'
ptxas info    : Function properties for a_kernel
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers
"""


def test_each_kernel_of_each_architecture():
    assert parse(LOG) == {
        "sm_80": {"a_kernel": Usage(10, 0, 0, 0, 0, 0), "b_kernel": Usage(255, 64, 36, 44, 49152, 2)},
        "sm_90a": {"a_kernel": Usage(12, 0, 0, 0, 0, 0)},
    }


def test_any_of_stack_stores_and_loads_is_a_spill():
    assert not Usage(10, 0, 0, 0, 4096, 1).spills
    assert all(Usage(10, *frame, 0, 0).spills for frame in ((8, 0, 0), (0, 8, 0), (0, 0, 8)))


def test_a_log_without_kernels_is_empty():
    assert parse("") == parse("ptxas info    : 0 bytes gmem\n") == {}
