"""The C-GSPN vision encoder as a Graph.

Main stream: tokens [N,H,W,C] (rows), so that every large product has its features contiguous and aligned whatever the map's
size. Propagation: planes [N,C_c,H,W], the layout of a line scan. The two 1x1 convolutions at the border change layout as
they compute, so no transposition is ever run on its own inside a block. Directions are separate values: one direction's
gates are dead before the next direction's are made, and the arena holds one of them instead of four.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from treadle.ir.graph import Graph, Init, Value
from treadle.ir.ops.scan.gspn import DIRECTIONS
from treadle.models.cgspn.config import Config

ONE, ZERO = Init("constant", 1.0), Init("constant", 0.0)


def build(configuration: str, config: Config, dtype: str, **options: Any) -> Graph:
    """image [N,3,H,W] -> features [N,C,H/patch,W/patch], pooled [N,C]; H and W multiples of the patch."""
    return _Encoder(f"cgspn:{configuration}", replace(config, **options), dtype).graph


class _Encoder:
    def __init__(self, name: str, config: Config, dtype: str) -> None:
        self.config, self.dtype = config, dtype
        self.graph = g = Graph(name)
        side = config.max_side - config.max_side % config.patch
        self.n = g.dim("N", 1, config.max_batch)
        height, width = (g.dim(d, config.patch, side, config.patch) for d in "HW")
        self.h, self.w = height // config.patch, width // config.patch
        self.p = self.h * self.w

        image = g.input("image", (self.n, 3, height, width), dtype)
        x = self.patches(image)
        for i in range(config.depth):
            mix = self.attend if config.attends(i) else self.propagate
            x = mix(f"blocks.{i}.", x)
            x = self.mlp(f"blocks.{i}.", x)
        features = g.call("features", "image.to_planes", self.norm("norm", x))
        g.output("features", g.view(features, (self.n, config.channels, self.h, self.w)))
        g.output("pooled", g.call("pooled", "image.mean_pool", features))

    def patches(self, image: Value) -> Value:
        c, q = self.config.channels, self.config.patch
        weight = self.graph.weight("patch_embed.weight", (c, 3, q, q), self.dtype, Init("normal", (3 * q * q) ** -0.5))
        bias = self.graph.weight("patch_embed.bias", (c,), self.dtype, ZERO)
        tokens = self.graph.call("patch_embed", "image.patch_embed", image, weight, bias, attrs={"patch": q})
        return self.graph.view(tokens, (self.n, self.p, c))

    def norm(self, name: str, x: Value) -> Value:
        """Layer norm of tokens [N,P,C]."""
        c = self.config.channels
        weight = self.graph.weight(f"{name}.weight", (c,), self.dtype, ONE)
        bias = self.graph.weight(f"{name}.bias", (c,), self.dtype, ZERO)
        rows = self.graph.view(x, (self.n * self.p, c))
        y = self.graph.call(name, "norm.layer_norm", rows, weight, bias, attrs={"eps": self.config.eps})
        return self.graph.view(y, (self.n, self.p, c))

    def linear(self, name: str, x: Value, out: int, residual: Value | None = None, **attrs: Any) -> Value:
        features = x.shape[2] if attrs.get("x_layout", "rows") == "rows" else x.shape[1]
        weight = self.graph.weight(f"{name}.weight", (out, int(features)), self.dtype, Init("normal", int(features) ** -0.5))
        bias = self.graph.weight(f"{name}.bias", (out,), self.dtype, ZERO)
        args = (x, weight, bias) if residual is None else (x, weight, bias, residual)
        return self.graph.call(name, "gemm.linear", *args, attrs={**attrs, "residual": residual is not None})

    def propagate(self, block: str, x: Value) -> Value:
        """x + P_up(merge_d(u_d * scan_d(P_down(norm(x)))))."""
        g, c, latent = self.graph, self.config.channels, self.config.latent
        groups = 1 if self.config.shared_gates else latent
        image = (self.n, latent, self.h, self.w)
        z = self.linear(f"{block}down", self.norm(f"{block}norm1", x), latent, y_layout="planes")

        def planes(kind: str, direction: str, out: int) -> Value:
            return self.linear(f"{block}{kind}.{direction}", z, out, x_layout="planes", y_layout="planes")

        scans = []
        for d in DIRECTIONS:
            logits = g.view(planes("gates", d, 3 * groups), (self.n, 3, groups, self.h, self.w))
            gates = g.call(f"{block}gates.{d}.normalise", "scan.gspn_gates", logits, attrs={"direction": d})
            lam = g.view(planes("lam", d, latent), image)
            h = g.call(f"{block}scan.{d}", "scan.gspn", g.view(z, image), lam, gates, attrs={"direction": d})
            scans.append(g.view(h, (self.n, latent, self.p)))
        outs = [planes("u", d, latent) for d in DIRECTIONS]
        skips = [z, *(planes("d", d, latent) for d in DIRECTIONS)] if self.config.skip else []
        merge = g.weight(f"{block}merge", (len(DIRECTIONS),), self.dtype, Init("constant", 1 / len(DIRECTIONS)))
        y = g.call(f"{block}merge", "scan.gspn_merge", *scans, *outs, merge, *skips, attrs={"skip": self.config.skip})
        return self.linear(f"{block}up", y, c, residual=x, x_layout="planes")

    def attend(self, block: str, x: Value) -> Value:
        """x + proj(attention(q, k, v of norm(x))): heads are parts of a token's features, and no bytes move to part them."""
        g, c, heads = self.graph, self.config.channels, self.config.heads
        z = self.norm(f"{block}norm1", x)
        parted = (self.n, self.p, heads, c // heads)
        q, k, v = (g.view(self.linear(f"{block}{name}", z, c), parted) for name in "qkv")
        y = g.call(f"{block}attention", "attention.attention", q, k, v, attrs={"dim": c // heads})
        return self.linear(f"{block}proj", g.view(y, (self.n, self.p, c)), c, residual=x)

    def mlp(self, block: str, x: Value) -> Value:
        """x + fc2(gelu(fc1(norm(x))))."""
        hidden = self.linear(f"{block}fc1", self.norm(f"{block}norm2", x), self.config.mlp, activation="gelu_tanh")
        return self.linear(f"{block}fc2", hidden, self.config.channels, residual=x)
