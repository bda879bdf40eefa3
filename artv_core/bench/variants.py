"""Ways of sampling that `artv bench` compares."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Variant:
    """A way of sampling: how the model is prepared, and the options that differ from the plain way."""

    compiled: bool = False
    fp8: bool = False
    graph: bool = True
    options: tuple[tuple[str, Any], ...] = ()


VARIANTS = {
    "plain": Variant(),
    "no graph": Variant(graph=False),
    "compiled": Variant(compiled=True),
    "fp8": Variant(fp8=True),
    "reuse 2": Variant(options=(("reuse_every", 2),)),
    "reuse 3": Variant(options=(("reuse_every", 3),)),
    "guidance 0.3-1": Variant(options=(("guidance_interval", (0.3, 1.0)),)),
    "dpmpp_2m": Variant(options=(("sampler", "dpmpp_2m"),)),
    "compiled, reuse 2": Variant(compiled=True, options=(("reuse_every", 2),)),
}
"""The ways, by their names in the table."""
