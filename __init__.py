"""ARTV for ComfyUI: autoregressive text-to-video. The core is in `artv_core`, the nodes are in `nodes`.

Nothing is imported here until the host asks for the nodes, since pytest and tools import this file too.
"""

from pathlib import Path


def __getattr__(name: str) -> str:
    """`WEB_DIRECTORY`, the page's scripts, when the host asks. A spare copy has none, or they would run twice."""
    if name == "WEB_DIRECTORY" and (Path(__file__).parent / "js").is_dir():
        from .nodes import copies

        if not copies.is_spare():
            return "./js"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


async def comfy_entrypoint():
    """What the host calls for the list of nodes."""
    from .nodes.extension import ARTVExtension

    return ARTVExtension()
