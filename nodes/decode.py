"""The node that turns latents into a video file, a few frames at a time."""

from typing import Any

from comfy_api.latest import InputImpl, io, ui

from ..artv_core.media import VideoWriter
from . import bridge
from .checks import faults_named, verdict
from .images import Decoder, decoded_frames, pixel_size
from .monitor import completes, counter
from .output_files import (
    UPSCALE,
    Naming,
    enlargement,
    graph_metadata,
    reserved_files,
    video_file_inputs,
    video_suffix,
)


class ARTVDecodeVideo(io.ComfyNode):
    """Decodes and encodes a few frames at a time, so that memory does not grow with the video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The host's description of the node."""
        return bridge.schema(
            node_id="ARTVDecodeVideo",
            display_name="ARTV Decode to Video",
            category="ARTV",
            description="Decodes the frames one by one and writes them to a video file in the output folder. "
            "The workflow is stored in the file: drop the video on the canvas to get it back.",
            search_aliases=["artv", "vae decode", "save video", "mp4", "create video"],
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                io.Latent.Input("latent", tooltip="The frames, from the Masked Diffusion Sampler."),
                io.Vae.Input("vae", tooltip="The VAE from ARTV Loader, or of your own graph with ARTV Adapt Model."),
                *video_file_inputs(),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="The file, for any node that takes a video.")],
        )

    @classmethod
    def validate_inputs(cls, upscale: Any = None) -> bool | str:
        """Check what was typed into the box that can say "auto"."""
        return verdict(UPSCALE.check, upscale)

    @classmethod
    @faults_named()
    def execute(
        cls, latent: dict, vae: Any, fps: float, filename_prefix: str, format: str, upscale: Any
    ) -> io.NodeOutput:
        """Decode, encode and discard a few frames at a time."""
        samples = bridge.latent_samples(latent, "the latent")
        factor = enlargement(upscale, pixel_size(vae, samples))
        naming = Naming(pixel_size(vae, samples, factor), cls.hidden and cls.hidden.prompt)
        with reserved_files(filename_prefix, video_suffix(format), naming=naming) as (file,):
            progress, show = counter(len(samples)), completes(samples)
            with VideoWriter(file.path, fps, upscale=factor, metadata=graph_metadata(cls.hidden)) as video:
                for index, image in enumerate(decoded_frames(Decoder(vae), samples)):
                    video.append(image)
                    show(index, image)
                    progress()
        result = ui.SavedResult(file.name, file.subfolder, io.FolderType.output)
        return io.NodeOutput(InputImpl.VideoFromFile(file.path), ui=ui.PreviewVideo([result]))
