"""The node that measures the drift of a video: text, a CSV file, a plot."""

import logging
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..artv_core.run.drift import DriftLog, DriftMeter, DriftReading, drift_table, plot_drift
from . import bridge
from .checks import faults_named
from .images import Decoder, decoded_frame, decoded_frames, pixel_size
from .monitor import counter
from .output_files import Naming, reserved_files

logger = logging.getLogger(__name__)


class ARTVDriftReadout(io.ComfyNode):
    """Decodes and measures frame by frame, so that memory use does not grow with the video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The host's description of the node."""
        return bridge.schema(
            node_id="ARTVDriftReadout",
            display_name="ARTV Drift Readout",
            category="ARTV",
            description="Measures how far each frame of a video has drifted from one frame: colour, "
            "sharpness, motion. Gives a table, a plot, and a CSV file with a row for every frame.",
            search_aliases=["artv", "drift", "quality", "sharpness", "motion", "csv", "plot"],
            is_output_node=True,
            hidden=[io.Hidden.prompt],
            inputs=[
                io.Latent.Input("latent", tooltip="The frames, from the Masked Diffusion Sampler."),
                io.Vae.Input("vae", tooltip="The VAE from ARTV Loader, or of your own graph with ARTV Adapt Model."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="The sampler's copy_mask, for the column 'copied'. Unconnected: that column is 0.",
                ),
                io.Int.Input(
                    "anchor_frame",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="The frame that all others are compared with, counted from 0.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="drift/ARTV",
                    tooltip="Folder and start of the CSV file's name, inside the output folder. Placeholders "
                    "such as %date:yyyy-MM-dd% and %ARTVLoader.checkpoint% are filled in.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="table",
                    tooltip="The measurements of twelve evenly spaced frames. Show it with Preview as Text.",
                ),
                io.Image.Output(display_name="plot", tooltip="All measurements, plotted over the frames."),
                io.String.Output(display_name="csv_file", tooltip="Path of the CSV file, inside the output folder."),
            ],
        )

    @classmethod
    @faults_named()
    def execute(
        cls, latent: dict, vae: Any, anchor_frame: int, filename_prefix: str, mask: Tensor | None = None
    ) -> io.NodeOutput:
        """Decode and measure one frame after another, and write a row for each."""
        samples = bridge.latent_samples(latent, "the latent")
        masks = _masks(mask, len(samples))
        if anchor_frame >= len(samples):
            raise ValueError(
                f"anchor_frame is {anchor_frame}, but the latent has {len(samples)} frames, 0 to {len(samples) - 1}"
            )
        naming = Naming(pixel_size(vae, samples), cls.hidden and cls.hidden.prompt)
        decode = Decoder(vae)
        meter = DriftMeter(decoded_frame(decode, samples, anchor_frame))
        readings: list[DriftReading] = []
        progress = counter(len(samples))
        with reserved_files(filename_prefix, ".csv", naming=naming) as (file,), DriftLog(file.path) as log:
            for index, image in enumerate(decoded_frames(decode, samples)):
                readings.append(meter.read(index, image, None if masks is None else masks[index]))
                log.append(readings[-1])
                progress()
        table, plot = drift_table(readings), _plot(readings, file.name)
        shown = ui.PreviewImage(plot).as_dict() | {"text": (table,)}
        return io.NodeOutput(table, plot, PurePath(file.subfolder, file.name).as_posix(), ui=shown)


def _masks(mask: Tensor | None, num_frames: int) -> Tensor | None:
    """The masks [T, h, w]. Raises ValueError unless there is one for each frame."""
    if mask is None:
        return None
    masks = mask.reshape(-1, *mask.shape[-2:])
    if len(masks) != num_frames:
        raise ValueError(
            f"mask and latent must be of one video: the mask has {len(masks)} frames, the latent "
            f"{num_frames}; connect both from the same sampler"
        )
    return masks


def _plot(readings: Sequence[DriftReading], title: str) -> Tensor:
    """The plot as an image [1, H, W, 3] in [0, 1]; plain grey if it cannot be drawn."""
    try:
        picture = plot_drift(readings, title)
    except ValueError as error:
        logger.warning("ARTV Drift Readout: %s", error)
        return torch.full((1, 64, 64, 3), 0.5)
    return torch.from_numpy(np.array(picture)).float()[None] / 255
