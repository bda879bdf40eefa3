"""What the mask network copies, before places of fine detail: frames, and under each the mask that made it."""

from pathlib import Path

import torch
from torch import Tensor

from artv_core.media import contact_sheet, mask_frames
from artv_core.method.generate import GenerateOptions
from artv_core.models.artv import ARTV
from artv_core.training.sheets import decoded, rollout_frames

CAPTIONS = (
    "a red apple moving right slowly on a brick wall",
    "a rabbit moving right slowly in a green meadow",
    "a sailboat moving left slowly on a sea with waves",
)
FRAMES = 16
QUALITY = 90


def save_masks(model: ARTV, path: Path, captions: tuple[str, ...] = CAPTIONS, seed: int = 0) -> dict[str, float]:
    """Draw one video of each caption with its masks, white where the last frame is copied, and return by caption the
    mean share that was copied after the first frame."""
    images, masks = make(model, captions, seed)
    rows: list[tuple[str, Tensor]] = []
    for caption, video, mask in zip(captions, images, masks, strict=True):
        rows += [(caption, video), ("its mask: white is copied from the last frame", mask)]
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(rows, columns=8).save(path, quality=QUALITY)
    return {caption: round(mask[1:].mean().item(), 3) for caption, mask in zip(captions, masks, strict=True)}


@torch.no_grad()
def make(model: ARTV, captions: tuple[str, ...], seed: int) -> tuple[Tensor, Tensor]:
    """Images and masks, both [N, T, 3, H, W] in [0, 1]; the first frame has no mask, which is black."""
    options = GenerateOptions(num_frames=FRAMES, batch_size=len(captions), seed=seed)
    frames = list(rollout_frames(model, list(captions), options))
    images, none = decoded(model, frames), torch.zeros(len(captions), 1, 1, 1)
    masks = [mask_frames(none if frame.mask is None else frame.mask.cpu(), *images.shape[-2:]) for frame in frames]
    return images, torch.stack(masks, dim=1)
