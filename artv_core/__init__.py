"""ART-V in PyTorch: text to video, one frame at a time. It runs without ComfyUI.

Start with `Pipeline` and `GenerateOptions`. Public names are imported when they are first used, so that importing the
package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import load_checkpoint, resolve_checkpoint, save_checkpoint
    from .method.generate import VideoRequest, generate_frames
    from .method.options import GenerateOptions
    from .run.pipeline import Pipeline

__all__ = [
    "GenerateOptions",
    "Pipeline",
    "VideoRequest",
    "generate_frames",
    "load_checkpoint",
    "resolve_checkpoint",
    "save_checkpoint",
]

_HOMES = {
    "GenerateOptions": ".method.generate",
    "Pipeline": ".run.pipeline",
    "VideoRequest": ".method.generate",
    "generate_frames": ".method.generate",
    "load_checkpoint": ".checkpoint",
    "resolve_checkpoint": ".checkpoint",
    "save_checkpoint": ".checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
