"""CUDA schedules of recurrences, and the forms of a block that they share.

kernel.py      the grid, thread loops as phases, barriers, rows of memory
registers.py   the line in registers, neighbours through shared memory
strided.py     the line in shared memory, any length, any direction
tiles.py       tiles of the walked axis turned round in shared memory
channels.py    gradients summed over the channels that share an element
"""
