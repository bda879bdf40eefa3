"""What the mask network copies, before places of fine detail: frames, and under each the mask that made it."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from artv_core.generate import GenerateOptions, generate_frames
from artv_core.media import contact_sheet
from artv_core.models.artv import ARTV
from artv_core.text_track import TextSegment, TextTrack

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
    track = TextTrack([TextSegment(0, model.encode_text(list(captions)))])
    options = GenerateOptions(num_frames=FRAMES, batch_size=len(captions), seed=seed)
    images, masks = [], []
    for frame in generate_frames(model, track, options):
        image = model.decode_latents(frame.latent).cpu()
        mask = torch.zeros(len(captions), 1, 1, 1) if frame.mask is None else frame.mask.float().cpu()
        images.append(image)
        masks.append(F.interpolate(mask, size=image.shape[-2:], mode="nearest").expand_as(image))
    return torch.stack(images, dim=1), torch.stack(masks, dim=1)
