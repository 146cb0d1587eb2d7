"""A launch: its checks, its CTAs one cohort after another, on several cores where nothing they share forbids it."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection

import numpy as np

from treadle.codegen.ptxsim import inline
from treadle.codegen.ptxsim.device_memory import DeviceMemory
from treadle.codegen.ptxsim.machine import Dims, Machine
from treadle.codegen.ptxsim.syntax import Function, Module
from treadle.errors import ArgumentError, TreadleError, UnknownNameError

#: Thread-instructions after which a cohort is taken to spin for ever.
BUDGET = 2_000_000_000
_MOST_GRID, _MOST_BLOCK = (2**31 - 1, 65535, 65535), (1024, 1024, 64)
_MOST_THREADS, _MOST_SHARED, _MOST_CLUSTER = 1024, 227 << 10, 16


def launch(
    module: Module, entry: str, grid: Sequence[int], block: Sequence[int], params: Sequence[bytes], memory: DeviceMemory,
    shared: int = 0, cluster: Sequence[int] | None = None, seed: int = 0, jobs: int = 1, budget: int = BUDGET,
) -> int:  # fmt: skip
    """Run a kernel to its end, or raise the hazard met. Returns how many thread-instructions it took.

    `params` holds the bytes of every parameter, `shared` the dynamic shared memory in bytes; `seed` chooses the order of
    warps and of CTAs, `jobs` how many processes the CTAs are shared out to.
    """
    function = module.functions.get(entry)
    if function is None or not function.entry:
        raise UnknownNameError.unknown(
            "kernel", entry, [f.name for f in module.functions.values() if f.entry], where=module.name
        )
    dims, threads = _dims(grid), _dims(block)
    clusters = _dims(cluster or function.cluster or (1, 1, 1))
    machine = _machine(module, function, dims, threads, clusters, shared, memory)
    _check_launch(machine, params)
    raw = machine.param.data
    for variable, given in zip(function.params, params, strict=True):
        at = machine.layout.params[variable.name][0]
        raw[at : at + len(given)] = np.frombuffer(given, np.uint8)
    order = np.arange(math.prod(dims) // math.prod(clusters))
    if seed:
        np.random.default_rng(seed).shuffle(order)
    machine.global_.begin_launch()
    jobs = 1 if _communicates(function) else min(jobs, len(order))
    if jobs == 1:
        return _run(machine, order, seed, budget)
    return _share(machine, order, seed, budget, jobs)


def _machine(
    module: Module, function: Function, grid: Dims, block: Dims, cluster: Dims, shared: int, memory: DeviceMemory
) -> Machine:
    _check_shape(function, grid, block, cluster, shared)
    key = (id(module), function.name, grid, block, cluster, shared)
    kept = memory.machines.get(key)
    if kept is None:
        symbols = memory.symbols(module)
        flat = inline.flatten(module, function.name)
        kept = Machine(module, flat, grid, block, cluster, shared, memory, symbols, module.target)
        memory.machines[key] = kept
        if len(memory.machines) > 16:
            del memory.machines[next(iter(memory.machines))]
    return kept


def _run(machine: Machine, order: np.ndarray, seed: int, budget: int) -> int:
    before = machine.executed
    with np.errstate(all="ignore"):
        for number in order.tolist():
            # Every cohort its own order, each the same whatever ran before it.
            machine.run(number, seed and seed + 2 * number, budget)
    return machine.executed - before


def _share(machine: Machine, order: np.ndarray, seed: int, budget: int, jobs: int) -> int:
    """Forked processes see the same device memory; what they raise is raised here."""
    fork = multiprocessing.get_context("fork")
    workers = []
    for part in range(jobs):
        here, there = fork.Pipe(duplex=False)
        process = fork.Process(target=_work, args=(machine, order[part::jobs], seed, budget, there))
        process.start()
        there.close()
        workers.append((process, here))
    total, failure = 0, None
    for process, pipe in workers:
        try:
            found = pipe.recv()
        except EOFError:
            found = RuntimeError(f"a process of the PTX machine died with exit code {process.exitcode}")
        process.join()
        if isinstance(found, int):
            total += found
        else:
            failure = failure or found
    if failure is not None:
        raise failure
    return total


def _work(machine: Machine, order: np.ndarray, seed: int, budget: int, out: Connection) -> None:
    try:
        out.send(_run(machine, order, seed, budget))
    except TreadleError as hazard:
        out.send(hazard)


def _communicates(function: Function) -> bool:
    """Whether CTAs may depend on each other: atomics and strong accesses outside shared memory."""
    strong = {"volatile", "relaxed", "acquire", "release", "acq_rel"}
    return any(
        (i.opcode in ("atom", "red") or (i.opcode in ("ld", "st") and strong & set(i.mods)))
        and not any(x.startswith("shared") for x in i.mods)
        for i in function.body
    )


def _dims(given: Sequence[int]) -> Dims:
    x, y, z = (*(int(n) for n in given), 1, 1)[:3]
    return x, y, z


def _check_shape(function: Function, grid: Dims, block: Dims, cluster: Dims, shared: int) -> None:
    def refuse(what: str, given: object, expected: object) -> ArgumentError:
        return ArgumentError(f"kernel {function.name}: {what}", given=given, expected=expected)

    for what, dims, most in (("grid", grid, _MOST_GRID), ("block", block, _MOST_BLOCK)):
        if any(not 1 <= d <= m for d, m in zip(dims, most, strict=True)):
            raise refuse(f"no such {what}", dims, f"1 to {most}")
    threads = math.prod(block)
    most_threads = math.prod(function.max_threads) if function.max_threads else _MOST_THREADS
    if threads > most_threads:
        raise refuse("too many threads in a block", threads, f"at most {most_threads}")
    if function.required_threads and block != function.required_threads:
        raise refuse("another block than it was compiled for", block, function.required_threads)
    if function.cluster and cluster != function.cluster:
        raise refuse("another cluster than it was compiled for", cluster, function.cluster)
    if math.prod(cluster) > _MOST_CLUSTER or any(g % c for g, c in zip(grid, cluster, strict=True)):
        raise refuse("no such cluster", cluster, f"at most {_MOST_CLUSTER} CTAs, dividing the grid {grid}")
    if not 0 <= shared <= _MOST_SHARED:
        raise refuse("dynamic shared memory", shared, f"0 to {_MOST_SHARED} bytes")


def _check_launch(machine: Machine, params: Sequence[bytes]) -> None:
    function = machine.entry
    given, expected = [len(p) for p in params], [v.bytes for v in function.params]
    if given != expected:
        raise ArgumentError(
            f"kernel {function.name}: arguments of the wrong count or size",
            given=f"{given} bytes",
            expected=f"{expected} bytes",
        )
    total = machine.layout.static_shared + machine.dynamic_shared
    if total > _MOST_SHARED:
        raise ArgumentError(f"kernel {function.name}: too much shared memory", given=f"{total} bytes", expected=_MOST_SHARED)
