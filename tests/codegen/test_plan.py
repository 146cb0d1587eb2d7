"""Plans: no value is overwritten while it is still needed, at any legal size; regions are as large as what they hold."""

from hypothesis import given, settings
from hypothesis import strategies as st

from treadle import models
from treadle.codegen.plan import ALIGN, plan
from treadle.dtypes import dtype
from treadle.ir.graph import Graph
from treadle.runtime.sizes import size_expr


def verify(planned, sizes):
    """Replay a plan on paper: every read finds the value it wants, in a region large enough, apart from what is written."""
    entry = planned.to_json()["entries"]["main"]
    regions = {r["name"]: size_expr(r["bytes"]).evaluate(sizes) for r in entry["arena"]}
    outputs = {o.root: name for name, o in planned.graph.outputs.items()}
    holds = {}
    for node, step in zip(planned.nodes, entry["steps"], strict=True):
        assert step["node"] == node.name
        read = {planned.place(v) for v in node.inputs}
        for value, name in zip((*node.inputs, *node.outputs), step["args"], strict=True):
            described = entry["values"][name]
            size = dtype(value.dtype).itemsize
            for s in described["shape"]:
                size *= size_expr(s).evaluate(sizes)
            if described["place"] == "arena":
                assert size <= regions[described["of"]], name
        for value in node.inputs:
            if planned.place(value).kind in ("arena", "output"):
                assert holds[planned.place(value)] is value.root, f"{node.name} reads {value.name} after it was overwritten"
        for value in node.outputs:
            assert planned.place(value) not in read, f"{node.name} writes what it reads"
            holds[planned.place(value)] = value
    for value, name in outputs.items():
        assert holds[planned.place(value)] is value, name
    return sum(-(-b // ALIGN) * ALIGN for b in regions.values())


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 64), h=st.integers(1, 147), w=st.integers(1, 147))
def test_encoder_plan_holds_at_any_size_and_below_its_bound(n, h, w):
    planned = plan(models.build("cgspn", "tiny", shared_gates=True))
    assert verify(planned, {"N": n, "H": 14 * h, "W": 14 * w}) <= planned.bytes_with
    assert planned.saved > 0.8 * planned.bytes_without


@st.composite
def graphs(draw):
    """Random chains and joins of transpositions, additions of directions and pools over two symbolic sizes."""
    g = Graph("random")
    p, c = g.dim("P", 1, 50), g.dim("C", 1, 50)
    values = [g.input("x", (2, p, c), "float32"), g.input("y", (2, c, p), "float32")]
    for i in range(draw(st.integers(1, 12))):
        value = draw(st.sampled_from(values))
        if draw(st.booleans()):
            values.append(g.call(f"t{i}", "image.to_planes", value))
        else:
            other = [v for v in values if all(g.same(a, b) for a, b in zip(v.shape, value.shape, strict=True))]
            picks = [draw(st.sampled_from(other)) for _ in range(8)]
            if "m" not in g.inputs:
                g.input("m", (4,), "float32")
            values.append(g.call(f"m{i}", "scan.gspn_merge", *picks, g.inputs["m"]))
    g.output("last", values[-1])
    if len(values) > 4 and draw(st.booleans()):
        g.output("middle", values[3])
    return g


@settings(max_examples=60, deadline=None)
@given(graph=graphs(), p=st.integers(1, 50), c=st.integers(1, 50))
def test_random_plans_hold(graph, p, c):
    planned = plan(graph)
    assert verify(planned, {"P": p, "C": c}) <= planned.bytes_with <= planned.bytes_without


def test_the_check_itself_notices_a_region_reused_too_early():
    planned = plan(models.build("cgspn", "tiny"))
    first, second = (planned.places[n.outputs[0]] for n in planned.nodes[1:3])
    places = {v: first if p == second else p for v, p in planned.places.items()}
    planned.places = places
    try:
        verify(planned, {"N": 1, "H": 14, "W": 28})
    except AssertionError:
        return
    raise AssertionError("a plan with two live values in one region passed")
