"""What the sampler skips to save time, at some cost in quality."""

from comfy_api.latest import io

from ..artv_core.method.denoiser import Shortcuts
from . import bridge
from .checks import verdict
from .types import ARTVShortcuts


class ARTVShortcutSettings(io.ComfyNode):
    """Settings that save time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The host's description of the node."""
        return bridge.schema(
            node_id="ARTVShortcutSettings",
            display_name="ARTV Shortcuts",
            category="ARTV",
            description="Speeds up sampling and costs some quality: some steps reuse parts of the network's "
            "work, or leave out guidance.",
            search_aliases=["artv", "speed", "faster", "deepcache", "guidance interval"],
            inputs=[
                io.Int.Input(
                    "reuse_every",
                    default=2,
                    min=1,
                    max=10,
                    tooltip="Runs the whole network only every N-th time and reuses part of its result in "
                    "between (DeepCache). 1: off; 2: about half the work.",
                ),
                io.Int.Input(
                    "reuse_blocks",
                    default=1,
                    min=1,
                    max=12,
                    tooltip="How many of the network's outer blocks still run in between. More: better "
                    "quality, but slower.",
                ),
                io.Float.Input(
                    "guidance_from",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where cfg ends. Sampling counts down from 1 (pure noise) to 0 (finished image), so this "
                    "is the smaller number. 0: cfg until the end.",
                ),
                io.Float.Input(
                    "guidance_to",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where cfg begins, counted down from 1. 1: from the start of sampling. Steps without cfg "
                    "take as little as a quarter of the work.",
                ),
            ],
            outputs=[ARTVShortcuts.Output(display_name="shortcuts", tooltip="For the sampler's shortcuts input.")],
        )

    @classmethod
    def validate_inputs(cls, guidance_from: float | None = None, guidance_to: float | None = None) -> bool | str:
        """Check that guidance begins before it ends."""
        return verdict(_check_interval, guidance_from, guidance_to)

    @classmethod
    def execute(cls, reuse_every: int, reuse_blocks: int, guidance_from: float, guidance_to: float) -> io.NodeOutput:
        """Collect the settings."""
        _check_interval(guidance_from, guidance_to)
        return io.NodeOutput(Shortcuts(reuse_every, reuse_blocks, (guidance_from, guidance_to)))


def _check_interval(guidance_from: float, guidance_to: float) -> None:
    if guidance_from > guidance_to:
        raise ValueError(
            f"guidance_from is {guidance_from:g} and guidance_to {guidance_to:g}; set guidance_from to "
            f"{guidance_to:g} or less"
        )
    Shortcuts(guidance_interval=(guidance_from, guidance_to))
