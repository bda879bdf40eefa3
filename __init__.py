"""ARTV for ComfyUI: autoregressive text-to-video. The core is in `artv_core`, the nodes are in `nodes`.

Nothing is imported here until the host asks for the nodes, since pytest and tools import this file too.
"""

from pathlib import Path

if (Path(__file__).parent / "js").is_dir():
    WEB_DIRECTORY = "./js"


async def comfy_entrypoint():
    """What the host calls for the list of nodes."""
    from .nodes.extension import ARTVExtension

    return ARTVExtension()
