"""Sample sheets during training: videos from held-out prompts or clips, and measurements of them."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import save_image

from ..data.clips import BrokenClip, ClipSource
from ..media import contact_sheet, mask_frames
from ..method.denoiser import run_networks
from ..method.frames import Frame
from ..method.generate import VideoRequest, generate_frames
from ..method.options import GenerateOptions
from ..method.text_track import TextSegment, TextTrack
from ..models.artv import ARTV
from ..run.recording import Recording, record_frames
from ..speed.graphs import Captured
from ..synthetic.pictures.scenes import captions
from ..synthetic.reading import score_clip, summarise
from ..synthetic.shapes import VALIDATION_SEED, Clip, sample_clip
from .config import DiffusionStage
from .worlds import PicturesTraining


def rollout(
    model: ARTV,
    captions: list[str],
    options: GenerateOptions,
    given: Tensor | tuple = (),
    recording: Recording | None = None,
) -> Tensor:
    """Videos [N, T, 3, H, W] on the CPU, one for each caption, made in one batch. `given`: latents [t, N, C, h, w] of
    the first frames. With a `recording`, a video that was interrupted continues from its last frame."""
    return decoded(model, rollout_frames(model, captions, options, given, recording))


def rollout_frames(
    model: ARTV,
    captions: list[str],
    options: GenerateOptions,
    given: Iterable[Tensor] = (),
    recording: Recording | None = None,
) -> Iterator[Frame]:
    """The frames of `rollout` with their masks, each as soon as it is made."""
    track, device = TextTrack([TextSegment(0, model.encode_text(captions))]), model.noise.device
    way = Captured(device) if device.type == "cuda" else run_networks
    request = VideoRequest(track, options.resolved(model.config), run_networks=way)
    return record_frames(model, request, recording, tuple(given))


def decoded(model: ARTV, frames: Iterable[Frame]) -> Tensor:
    """Images [N, T, 3, H, W] on the CPU."""
    return torch.stack([model.decode_latents(frame.latent).cpu() for frame in frames], dim=1)


def held_out_clips(count: int) -> list[Clip]:
    """The first `count` clips of the held-out triples."""
    return [sample_clip(VALIDATION_SEED, index, held_out=True) for index in range(count)]


@torch.no_grad()
def rollout_sheet(
    model: ARTV, path: Path, rows: int, columns: int, world: str = "plain", steps: int | None = None
) -> dict[str, float]:
    """Make videos of `rows` held-out prompts of a synthetic world from text alone, draw them, and return scores (shares
    in [0, 1], drift of 255). `steps`: denoising steps for each frame; None uses the model's recommendation."""
    options = GenerateOptions(num_frames=columns, batch_size=rows, seed=7, steps=steps)
    if world == "pictures":
        return _pictures_sheet(model, path, options)
    clips = held_out_clips(rows)
    videos = rollout(model, [clip.caption for clip in clips], options)
    save_image(F.interpolate(videos.flatten(0, 1), scale_factor=1.5), path, nrow=columns, padding=1)
    scores = summarise([score_clip(video, clip) for video, clip in zip(videos, clips, strict=True)])
    print(f"\n{path.name}: " + ", ".join(f"{name} {value:.2f}" for name, value in scores.items()))
    return scores


def _pictures_sheet(model: ARTV, path: Path, options: GenerateOptions) -> dict[str, float]:
    """The score is the drift: the median absolute difference between first and last frame, of 255. Most of a frame is
    the place, which stands still."""
    prompts = captions(PicturesTraining().held_out(options.batch_size))
    videos = rollout(model, prompts, options)
    contact_sheet(list(zip(prompts, videos, strict=True)), columns=options.num_frames).save(path)
    drift = 255 * (videos[:, -1] - videos[:, 0]).abs().flatten(1).median(dim=1).values.mean().item()
    print(f"\n{path.name}: drift {drift:.2f}")
    return {"drift": drift}


@torch.no_grad()
def clips_sheet(
    model: ARTV, clips: ClipSource, held_out: Sequence[int] | np.ndarray, path: Path, stage: DiffusionStage
) -> dict[str, float]:
    """Continue held-out clips from their first frames. Draw the true frames, the model's frames and its masks (white:
    copied). Returns the mean PSNR in dB of the model's frames, and that of repeating the first frame."""
    rows, scores = [], []
    for clip in held_out[: stage.sheet_rows]:
        try:
            true, made, masks = _gone_on(model, clips, int(clip), stage)
            caption = clips.caption(int(clip)) or clips.name(int(clip))
        except BrokenClip as error:
            print(f"\nleft out of the sheet: {error}")
            continue
        scores.append((_psnr(made[1:], true[1:]), _psnr(true[:1].expand_as(true[1:]), true[1:])))
        rows += [(caption, true), ("model", made)]
        rows += [("mask", mask_frames(masks, *true.shape[-2:]))] if masks is not None else []
    if not rows:
        return {}
    contact_sheet(rows, columns=stage.sheet_columns).save(path)
    made_psnr, held_psnr = (sum(column) / len(scores) for column in zip(*scores, strict=True))
    print(f"\n{path.name}: {made_psnr:.1f} dB, the first frame repeated: {held_psnr:.1f} dB")
    return {"sheet/psnr": made_psnr, "sheet/psnr_first_frame_held": held_psnr}


def _gone_on(model: ARTV, clips: ClipSource, clip: int, stage: DiffusionStage) -> tuple[Tensor, Tensor, Tensor | None]:
    """True frames and the model's [T, 3, H, W], and masks [T, 1, h, w], on the CPU."""
    device, count = model.noise.device, min(stage.sheet_columns, int(clips.index.num_frames[clip]))
    true = clips.frames(clip, range(count)).to(device)
    latents = true if clips.holds_latents else model.encode_images(true)
    context = clips.context(clip) if model.text is None else model.encode_text([clips.caption(clip)])[0]
    if context is None:
        raise ValueError(
            f"{clips.name(clip)}: neither the data nor the model can give the text embedding of its caption"
        )
    height, width = (side * model.config.vae.factor for side in latents.shape[-2:])
    options = GenerateOptions(num_frames=count, height=height, width=width, seed=7, steps=stage.sheet_steps or None)
    track = TextTrack([TextSegment(0, context[None].to(device))])
    frames = list(generate_frames(model, VideoRequest(track, options.resolved(model.config)), [latents[:1]]))
    made = torch.cat([latents[:1], *(frame.latent for frame in frames)])
    masks = [frame.mask for frame in frames if frame.mask is not None]
    mask = torch.cat([torch.zeros_like(masks[0]), *masks]).cpu() if len(masks) == len(frames) > 0 else None
    shown = model.decode_latents(latents) if clips.holds_latents else true
    return shown.cpu(), model.decode_latents(made).cpu(), mask


def _psnr(made: Tensor, true: Tensor) -> float:
    return -10 * float((made - true).square().mean(dim=(1, 2, 3)).clamp(min=1e-10).log10().mean())
