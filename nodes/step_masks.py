"""The node that shows what each denoising step of a frame copies from the frame before."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..artv_core.config import VAEConfig
from ..artv_core.media import StepTile, step_sheet
from ..artv_core.method.generate import generate_frames
from ..artv_core.method.noise_schedule import NoiseSchedule
from ..artv_core.method.samplers import StepInfo
from . import bridge
from .checks import faults_named
from .frame_request import FrameRequest, frames_before, request_for
from .images import Decoder
from .monitor import counter
from .types import ARTVModel
from .weights import Evaluations, run_weights


class ARTVStepMasks(io.ComfyNode):
    """Makes one frame of a video again and keeps the mask of every step."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The host's description of the node."""
        return bridge.schema(
            node_id="ARTVStepMasks",
            display_name="ARTV Step Masks",
            category="ARTV",
            description="Shows how one frame was made: what each denoising step copies from the frame before (white) "
            "and what it draws new (black). It makes only that frame again, with the same result.",
            is_output_node=True,
            search_aliases=["artv", "mask", "copy mask", "denoising steps", "explain", "figure"],
            inputs=[
                ARTVModel.Input("model", tooltip="The model that is connected to the sampler."),
                io.Latent.Input(
                    "latent",
                    tooltip="The sampler's latent, connected directly. It says how its frames were made.",
                ),
                io.Int.Input(
                    "frame",
                    default=1,
                    min=0,
                    max=1_000_000,
                    tooltip="Which frame to look at, counted from 0. It must be one that the sampler made.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Connect the VAE to see beside each mask what the frame looks like at that step.",
                ),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="masks",
                    tooltip="One small mask for each step, with one value for each cell (8x8 pixels): 1 is copied, 0 "
                    "is new. Their mean is the frame's copy_mask.",
                ),
                io.Image.Output(
                    display_name="sheet",
                    tooltip="A picture of all masks in order, each with its step and time step (999 is pure noise, "
                    "0 is the finished frame).",
                ),
            ],
        )

    @classmethod
    @faults_named()
    def execute(cls, model: Any, latent: dict, frame: int, vae: Any = None) -> io.NodeOutput:
        """Make the frame again, and draw its steps."""
        made = request_for(latent, frame, run_weights(model))
        steps = steps_of_frame(model, made, latent["samples"], frame)
        sheet = step_sheet(_title(frame, steps), _tiles(steps, vae, model.model.config.vae))
        picture = torch.from_numpy(np.array(sheet)).float()[None] / 255
        return io.NodeOutput(steps.masks, picture, ui=ui.PreviewImage(picture))


@dataclass(frozen=True)
class Steps:
    """All steps of one frame: masks [S, h, w], denoised latents [S, C, h, w] in the core's scale, and time steps.
    Without `copies` nothing was copied, and the masks are 0. `latent` [C, h, w] is the frame itself."""

    masks: Tensor
    denoised: Tensor
    timesteps: Sequence[float]
    copies: bool
    latent: Tensor


def steps_of_frame(patcher: Any, made: FrameRequest, samples: Tensor, frame: int) -> Steps:
    """Make a frame again, exactly as the sampler made it: in a batch of the same size, for rounding depends on that.
    `samples` [T, C, h, w] are the latents of the video in the host's scale."""
    model, options = patcher.model, made.request.options
    count = counter(options.steps_of(is_first=frame == 0))
    infos: list[StepInfo] = []

    def note(_: int, info: StepInfo) -> None:
        count()
        infos.append(replace(info, x=info.x[:0], denoised=_of(info.denoised, made), mask=_of(info.mask, made)))

    with Evaluations(patcher, options) as evaluations:
        request = replace(
            made.request,
            options=replace(options, num_frames=frame + 1),
            on_step=note,
            run_networks=evaluations.function,
        )
        before = frames_before(made, samples, frame, lambda one: bridge.to_core(one, model.config.vae))
        latent = _of(next(generate_frames(model, request, before)).latent, made)
    schedule = NoiseSchedule(model.config.schedule)
    masks = [torch.zeros_like(info.denoised[:1]) if info.mask is None else info.mask for info in infos]
    return Steps(
        torch.cat(masks),
        torch.stack([info.denoised for info in infos]),
        [float(schedule.timestep(info.sigma)) for info in infos],
        copies=any(info.mask is not None for info in infos),
        latent=latent,
    )


def _of(batch: Any, made: FrameRequest) -> Any:
    """This video's item of a batch, on the CPU; None stays None."""
    return None if batch is None else batch[made.video].float().cpu()


def _title(frame: int, steps: Steps) -> str:
    if not steps.copies:
        return f"Frame {frame}: nothing is copied, every step draws the whole picture"
    return f"Frame {frame}: what each step copies from frame {frame - 1} (white) and what it draws new (black)"


def _tiles(steps: Steps, vae: Any, config: VAEConfig) -> list[StepTile]:
    pictures: Sequence[Tensor | None] = [None] * len(steps.masks)
    if vae is not None:
        decode = Decoder(vae)
        pictures = [decode(bridge.to_host(one[None], config))[0].cpu() for one in steps.denoised]
    return [
        StepTile(f"step {number}, t = {timestep:.0f}", mask, picture)
        for number, (timestep, mask, picture) in enumerate(zip(steps.timesteps, steps.masks, pictures, strict=True), 1)
    ]
