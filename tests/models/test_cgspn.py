"""The C-GSPN encoder against its plain torch oracle."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import treadle
from treadle import models
from treadle.dtypes import dtype as find_dtype
from treadle.errors import ArgumentError, BoundsError, UnknownNameError
from treadle.models.cgspn import oracle
from treadle.models.cgspn.config import CONFIGS, Config

SIZES = [(1, 56, 56), (2, 28, 98), (1, 126, 14)]


HYBRID = {"heads": 6, "attention_every": 4}


def session(tmp_path_factory, dtype, **options):
    out = tmp_path_factory.mktemp("cgspn") / "tiny.treadle"
    return treadle.Session(treadle.compile(models.build("cgspn", "tiny", dtype, **options), seed=1, out=out))


def image(n, h, w, dtype):
    rng = np.random.default_rng(h * w)
    return torch.from_numpy(rng.standard_normal((n, 3, h, w), dtype=np.float32)).to(getattr(torch, dtype))


def ratios(s, x, config, dtype):
    """error / bound of each output under the rule of the whole project (design: tests)."""
    weights = load_file(s.bundle.path / "weights.safetensors")
    y64 = oracle.encode(weights, x, config, torch.float64)
    storage = None if dtype == "float32" else getattr(torch, dtype)
    t32 = oracle.encode(weights, x, config, torch.float32, storage)
    y = s.run(image=x)
    found = {}
    for name in ("features", "pooled"):
        truth = y64[name]
        bound = 2 * (t32[name].double() - truth).abs().max() + find_dtype(dtype).eps * truth.abs().max()
        assert torch.isfinite(y[name]).all()
        found[name] = float((y[name].double() - truth).abs().max() / bound)
    return found, y64["norms"].tolist()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"shared_gates": True, "skip": True}, HYBRID], ids=["default", "shared+skip", "hybrid"])
def test_encoder_equals_its_oracle(tmp_path_factory, dtype, options):
    s = session(tmp_path_factory, dtype, **options)
    config = Config(**{**CONFIGS["tiny"].__dict__, **options})
    for n, h, w in SIZES:
        found, norms = ratios(s, image(n, h, w, dtype), config, dtype)
        print(f"{dtype} {options} {n}x{h}x{w}: error/bound {found}, norms after each block {[round(v, 1) for v in norms]}")
        assert max(found.values()) <= 1, (n, h, w)
        changes = np.diff(norms) / np.array(norms[:-1])
        assert (np.abs(changes) > 0.02).all(), "a block that changes nothing would hide its own mistakes"


def edited(weights, edit):
    weights = dict(weights)
    edit(weights)
    return weights


MUTATIONS = {
    "one direction's gates used for another": lambda w: w.update({"blocks.1.gates.l2r.weight": w["blocks.1.gates.r2l.weight"]}),
    "a direction dropped from the merge": lambda w: w.update({"blocks.2.merge": torch.tensor([0.25, 0.25, 0.25, 0.0])}),
    "lam and u exchanged": lambda w: w.update(
        {"blocks.0.lam.t2b.weight": w["blocks.0.u.t2b.weight"], "blocks.0.u.t2b.weight": w["blocks.0.lam.t2b.weight"]}
    ),
    "a bias forgotten": lambda w: w.update({"blocks.3.up.bias": torch.linspace(-1, 1, 192)}),
    "the last norm forgotten": lambda w: w.update({"norm.weight": 1.001 * w["norm.weight"]}),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutations_of_the_graph_are_killed(tmp_path_factory, name, monkeypatch):
    """The same comparison fails where oracle and graph differ by one wire."""
    s = session(tmp_path_factory, "float32")
    plain = oracle.encode
    monkeypatch.setattr(oracle, "encode", lambda w, *rest: plain(edited(w, MUTATIONS[name]), *rest))
    found, _ = ratios(s, image(1, 56, 84, "float32"), CONFIGS["tiny"], "float32")
    assert max(found.values()) > 1


def test_sizes_are_chosen_at_run_time_within_bounds(tmp_path_factory):
    s = session(tmp_path_factory, "float32")
    assert s.run(image=image(1, 14, 14, "float32"))["features"].shape == (1, 192, 1, 1)
    for shape, error, words in (
        ((1, 30, 28), BoundsError, ["H", "30", "14"]),
        ((1, 28, 2072), BoundsError, ["W", "2072", "2058"]),
        ((65, 14, 14), BoundsError, ["N", "65", "64"]),
    ):
        with pytest.raises(error) as caught:
            s.run(image=image(*shape, "float32"))
        for word in words:
            assert word in str(caught.value)
    with pytest.raises(ArgumentError, match="float16"):
        s.run(image=image(1, 14, 14, "float16"))


def test_configurations():
    assert set(models.configurations("cgspn")) >= {"tiny", "base", "so400m"}
    for name, depth in (("tiny", 4), ("base", 12), ("so400m", 27)):
        graph = models.build("cgspn", name, "bfloat16")
        assert sum(n.program.name == "scan.gspn" for n in graph.nodes) == 4 * depth
        assert not any(n.program.name == "attention.attention" for n in graph.nodes)
        assert len({n.program.symbol for n in graph.nodes}) < 25, "one kernel per program and shape class, not per layer"
    hybrid = models.build("cgspn", "so400m-hybrid", "bfloat16")
    attending = [n.name for n in hybrid.nodes if n.program.name == "attention.attention"]
    assert attending == [f"blocks.{i}.attention" for i in (8, 17, 26)]
    assert sum(n.program.name == "scan.gspn" for n in hybrid.nodes) == 4 * 24
    assert {n: CONFIGS["tiny-hybrid"].__dict__[n] for n in HYBRID} == HYBRID
    for system, configuration in (("cgsnp", "tiny"), ("cgspn", "tinny")):
        with pytest.raises(UnknownNameError):
            models.build(system, configuration)
