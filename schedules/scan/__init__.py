"""CUDA schedules of recurrences, and the forms of a block that they share.

kernel.py      the grid, thread loops as phases, barriers, rows of memory
registers.py   the line in registers, neighbours through shared memory; member.py: one of the lines of a thread
shuffled.py    its neighbours by warp shuffle;  staged.py: its values through a ring of cp.async;  warps.py: both
clustered.py   its blocks along a cluster
launches.py    a launch per step;  alone.py: the strided form by itself;  rungs.py: which is the default
strided.py     the line in shared memory, any length, any direction
tiles.py       tiles of the walked axis turned round in shared memory
channels.py    gradients summed over the channels that share an element
"""
