"""Small encoded videos whose frames say which one they are, for the tests of everything that reads clips."""

import json
import tarfile
from collections.abc import Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

HEIGHT, WIDTH = 48, 64


def numbered_frame(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """[H, W, 3] uint8: eight upright bars, dark or bright, are the number's bits."""
    bits = [25 if number >> bit & 1 == 0 else 230 for bit in range(8)]
    row = np.repeat(np.array(bits, np.uint8), width // 8)
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (height, width, 3)))


def number_of(image: Tensor) -> int:
    """Which frame an image [3, H, W] shows, at any size that keeps the whole width."""
    width = image.shape[-1]
    return sum(int(image[:, :, (2 * bit + 1) * width // 16].mean() > 0.5) << bit for bit in range(8))


def write_video(
    path: Path,
    frames: Sequence[np.ndarray] | int,
    fps: float = 24,
    *,
    stamps: Sequence[int] | None = None,
    tick: Fraction | None = None,
    codec: str = "libx264",
    gop: int = 20,
    b_frames: int = 2,
    container: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    aspect: Fraction | None = None,
) -> Path:
    """`frames` [H, W, 3] uint8, or how many numbered ones; frame k is shown from `stamps[k]` ticks (seconds) on, by
    default k / fps."""
    images = [numbered_frame(number) for number in range(frames)] if isinstance(frames, int) else frames
    rate = Fraction(fps).limit_denominator(1001)
    tick = tick or 1 / rate
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=rate, options={"threads": "1", **(options or {})})
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], "yuv420p"
        stream.codec_context.time_base, stream.gop_size, stream.max_b_frames = tick, gop, b_frames
        if aspect:
            stream.sample_aspect_ratio = aspect
        for stamp, image in zip(stamps or range(len(images)), images, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = stamp, tick
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def write_animation(path: Path, frames: int, milliseconds: int = 40, height: int = HEIGHT, width: int = WIDTH) -> Path:
    """Numbered frames as an animated GIF, WebP or PNG."""
    images = [Image.fromarray(numbered_frame(number, height, width)) for number in range(frames)]
    path.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(path, save_all=True, append_images=images[1:], duration=milliseconds)
    return path


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
    return path


def clip_model(folder: Path) -> list[str]:
    """A small untrained one, as its options."""
    from open_clip.model import CLIP

    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    torch.manual_seed(0)
    (folder / "model.json").write_text(json.dumps(config))
    save_file(CLIP(**config).state_dict(), folder / "model.safetensors")
    return ["--clip-model", str(folder / "model.json"), "--clip-weights", str(folder / "model.safetensors")]
