"""Kernels as torch operators: with autograd, fake kernels for torch.compile, on the caller's device and stream.

    import treadle.torch as tt
    h = tt.gspn_scan(x, lam, tt.gspn_gates(logits, "l2r"), "l2r")

Kernels come from the cache, compiled on first use. Inputs are float32, float16 or bfloat16, all of one dtype on one device;
what is not contiguous is copied. A mistake raises a `treadle.errors` type that says what, given and expected.
"""

from __future__ import annotations

from treadle.errors import ToolchainError

try:
    import torch as _  # noqa: F401
except ModuleNotFoundError:
    raise ToolchainError(
        "treadle.torch needs torch", given="no module torch", expected="torch", hint="pip install 'treadle[torch]'"
    ) from None

from treadle.torch.conv import causal_conv1d_fn
from treadle.torch.conv_update import causal_conv1d_update
from treadle.torch.gates import gspn_gates
from treadle.torch.gspn2d import gspn2d
from treadle.torch.mamba import mamba_chunk_scan_combined
from treadle.torch.norm import rms_norm_fn, rmsnorm_fn
from treadle.torch.scan import gspn_scan
from treadle.torch.selective_scan import selective_scan_fn
from treadle.torch.state_update import selective_state_update

__all__ = [
    "causal_conv1d_fn",
    "causal_conv1d_update",
    "gspn2d",
    "gspn_gates",
    "gspn_scan",
    "mamba_chunk_scan_combined",
    "rms_norm_fn",
    "rmsnorm_fn",
    "selective_scan_fn",
    "selective_state_update",
]
