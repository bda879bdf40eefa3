"""Videos that are written while they are sampled: the settings, and the files."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ..artv_core.media import VideoWriter
from . import bridge
from .checks import verdict
from .images import Decoder
from .output_files import (
    UPSCALE,
    Naming,
    OutputFile,
    check_prefix,
    enlargement,
    output_files,
    video_file_inputs,
    video_suffix,
)
from .types import ARTVStream


@dataclass(frozen=True)
class StreamSettings:
    """How frames are decoded, and to which files they go. `upscale` is what was typed."""

    vae: Any
    fps: float
    prefix: str
    suffix: str
    upscale: Any


class ARTVStreamVideo(io.ComfyNode):
    """Settings of the stream."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The host's description of the node."""
        return bridge.schema(
            node_id="ARTVStreamVideo",
            display_name="ARTV Stream to Video",
            category="ARTV",
            description="Writes the video while it is sampled, so you can watch it grow: NAME.part.mp4 "
            "becomes NAME.mp4 after the last frame. If the run stops, the part file stays.",
            search_aliases=["artv", "stream", "live", "mp4", "mkv", "save video", "while sampling"],
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE from ARTV Loader, or of your own graph with ARTV Adapt Model."),
                *video_file_inputs(),
            ],
            outputs=[ARTVStream.Output(display_name="stream", tooltip="For the sampler's stream input.")],
        )

    @classmethod
    def validate_inputs(cls, upscale: Any = None) -> bool | str:
        """Check what was typed into the box that can say "auto"."""
        return verdict(UPSCALE.check, upscale)

    @classmethod
    def execute(cls, vae: Any, fps: float, filename_prefix: str, format: str, upscale: Any) -> io.NodeOutput:
        """Collect the settings. Errors in them are found before anything is sampled."""
        suffix = video_suffix(format)
        check_prefix(filename_prefix)
        UPSCALE.check(upscale)
        VideoWriter(f"checked{suffix}", fps, upscale=UPSCALE.whole_number(upscale) or 1)
        return io.NodeOutput(StreamSettings(vae, fps, filename_prefix, suffix, upscale))


class Streams:
    """Context manager: a growing file for each video of a batch."""

    def __init__(self, settings: StreamSettings, num_videos: int, metadata: Mapping[str, str], naming: Naming) -> None:
        """`naming` has the size of the frames themselves; the files are enlarged."""
        width, height = naming.size
        self._upscale = enlargement(settings.upscale, naming.size)
        self._naming = naming._replace(size=(width * self._upscale, height * self._upscale))
        self.settings, self.num_videos, self._metadata = settings, num_videos, metadata
        self.files: list[OutputFile] = []
        self._decode = Decoder(settings.vae)
        self._writers: list[VideoWriter] = []
        self._stack = ExitStack()

    def __enter__(self) -> "Streams":
        settings = self.settings
        self.files = output_files(settings.prefix, settings.suffix, self.num_videos, self._naming)
        with ExitStack() as stack:
            for file in self.files:
                stack.callback(file.release)
            for file in self.files:
                writer = VideoWriter(
                    file.path, settings.fps, upscale=self._upscale, metadata=self._metadata, growing=True
                )
                self._writers.append(stack.enter_context(writer))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def append(self, latents: Tensor) -> Tensor:
        """Decode and write the next frame of each video, latents [B, C, h, w] in the host's scale. Returns the images
        [B, 3, H, W] in [0, 1]."""
        images = self._decode(latents)
        for writer, image in zip(self._writers, images, strict=True):
            writer.append(image)
        return images

    def shown(self) -> ui.PreviewVideo:
        """The files, as the node's output shows them."""
        there = [file for file in self.files if os.path.exists(file.path)]
        return ui.PreviewVideo([ui.SavedResult(file.name, file.subfolder, io.FolderType.output) for file in there])
