"""Latents to a video file, one frame at a time."""

from typing import Any

from comfy_api.latest import InputImpl, io, ui

from ..artv_core.media import CONTAINERS, VideoWriter
from . import bridge
from .output_files import graph_metadata, output_file


class ARTVDecodeVideo(io.ComfyNode):
    """Decodes and encodes frame by frame, so that memory does not grow with the video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return bridge.schema(
            node_id="ARTVDecodeVideo",
            display_name="ARTV Decode to Video",
            category="ARTV",
            description="Decodes a video's latents frame by frame straight into a file in the output folder. The "
            "workflow is stored in the file: drop the video on the canvas to get it back.",
            search_aliases=["artv", "vae decode", "save video", "mp4", "create video"],
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                io.Latent.Input("latent", tooltip="The frames, from the Masked Diffusion Sampler."),
                io.Vae.Input("vae", tooltip="The VAE the latents belong to, from ARTV Loader."),
                io.Float.Input(
                    "fps", default=8.0, min=0.01, max=1000.0, step=0.5, tooltip="Frames per second of the video."
                ),
                io.String.Input(
                    "filename_prefix",
                    default="video/ARTV",
                    tooltip="Folder and beginning of the file's name, inside the output folder.",
                ),
                io.Combo.Input(
                    "format",
                    options=[suffix.removeprefix(".") for suffix in CONTAINERS],
                    default="mp4",
                    tooltip="The kind of file. All hold H.264 video.",
                ),
                io.Int.Input(
                    "upscale",
                    default=1,
                    min=1,
                    max=16,
                    tooltip="Each pixel becomes a square of so many pixels, without blur. 4 makes the tiny model's "
                    "64 pixels easy to see.",
                ),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="The file, for any node that takes a video.")],
        )

    @classmethod
    def execute(
        cls, latent: dict, vae: Any, fps: float, filename_prefix: str, format: str, upscale: int
    ) -> io.NodeOutput:
        """One frame after the other: decode, encode, forget."""
        if f".{format}" not in CONTAINERS:  # older hosts do not check menus
            raise ValueError(f"there is no format {format!r}; there are: {', '.join(CONTAINERS)}")
        samples = bridge.latent_samples(latent, "the latent")
        file = output_file(filename_prefix, f".{format}")
        progress = bridge.counter(len(samples))
        with VideoWriter(file.path, fps, upscale=upscale, metadata=graph_metadata(cls.hidden)) as video:
            for index in range(len(samples)):
                video.append(bridge.decode(vae, samples[index : index + 1])[0])
                progress()
        result = ui.SavedResult(file.name, file.subfolder, io.FolderType.output)
        return io.NodeOutput(InputImpl.VideoFromFile(file.path), ui=ui.PreviewVideo([result]))
