"""Images, video files and contact sheets. Files are written beside their target and renamed once they are whole."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from ..files.finite import NotFiniteError, is_finite
from ..files.partial_file import PartialFile, check_target, reason
from .colors import color_options
from .faststart import move_index_to_front

CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""File name endings a video may have, and FFmpeg's names for them."""

ENCODERS = {
    "libx264": {"crf": "14", "preset": "medium"},
    "libopenh264": {"b": "8M"},
    "mpeg4": {"qmin": "2", "qmax": "2"},
}
"""Video encoders in order of preference, with options for a picture without visible losses."""

_WITHOUT_DELAY = {"libx264": {"tune": "zerolatency"}}  # the other encoders never hold a frame back
_KEYFRAME_SECONDS = 2  # how far apart the frames are that a player can jump to, in a growing file
_FRAGMENT_EACH_FRAME = ["empty_moov", "default_base_moof", "frag_every_frame", "skip_trailer"]

_BT709, _LIMITED_RANGE = 1, 1  # FFmpeg's AVCOL_SPC_BT709 and AVCOL_RANGE_MPEG
_SHEET_TILE = 128


# Images


def read_image(path: str | Path, height: int, width: int) -> Tensor:
    """An image file as [1, 3, height, width] float32 in [0, 1].

    It is turned as its EXIF orientation says, transparency lies on white, grey becomes RGB, and 16 bits count in full.
    Then it is scaled until it just covers `width` x `height` pixels, and what stands out is cut off evenly on both
    sides (centre crop). Raises ValueError, one line, for whatever cannot be read.
    """
    try:
        with Image.open(path) as file:
            image = _to_rgb(ImageOps.exif_transpose(file))
    # A damaged file can make Pillow raise nearly anything (OSError, SyntaxError, struct.error, ...).
    except Exception as error:
        raise ValueError(f"cannot read image {path}: {_image_fault(error)}") from None
    return _cover(image, height, width).clamp(0, 1)


def _to_rgb(image: Image.Image) -> Tensor:
    """Any mode to [1, 3, H, W] float32 in [0, 1]."""
    if image.mode.startswith(("I", "F")):
        grey = torch.from_numpy(np.asarray(image).astype(np.float32))
        return (grey / _white_level(image))[None, None].expand(1, 3, -1, -1)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = _to_float(image.convert("RGBA"))
        return rgba[:, :3] * rgba[:, 3:] + (1 - rgba[:, 3:])
    return _to_float(image.convert("RGB"))


def _white_level(image: Image.Image) -> float:
    # Pillow reads 16-bit grey as "I;16" or, in older releases, "I"; float images (TIFF) count 1 as white.
    return 1.0 if image.mode == "F" else 65535.0


def _to_float(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def _cover(image: Tensor, height: int, width: int) -> Tensor:
    """Scale [1, 3, H, W] to cover the wanted size, then crop its centre."""
    old_height, old_width = image.shape[-2:]
    scale = max(height / old_height, width / old_width)
    size = (max(height, round(old_height * scale)), max(width, round(old_width * scale)))
    if size != (old_height, old_width):
        image = torch.nn.functional.interpolate(image, size=size, mode="bicubic", antialias=True, align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return image[..., top : top + height, left : left + width]


def _image_fault(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is not an image of a known kind"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"it is damaged or too large ({reason(error)})"


# Video


class VideoWriter:
    """Context manager that encodes frames one by one: H.264 (yuv420p), or MPEG-4 where FFmpeg lacks an H.264 encoder.

    The file gets its name when the context is left, and only if at least one frame was appended and nothing was raised;
    otherwise nothing is left behind. Every failure to write is a ValueError, one line; a path that cannot be written
    is found on entering.

    A finished MP4 or MOV has its index in front, so that a page can play it before it has all of it.

    A `growing` file can be watched while it is made. From the first frame on it lies at `growing_path`, in place of an
    older one there; whenever it is read, even after the process was killed, it holds every frame appended except the
    last. It gets its name in the end, like any other. An error leaves it where it is, closed and with all its frames.
    Such a file is larger, for the encoder cannot look ahead, and takes no more memory however many frames there are.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float,
        *,
        upscale: int = 1,
        comment: str = "",
        metadata: Mapping[str, str] | None = None,
        growing: bool = False,
    ) -> None:
        """`fps` frames per second; each pixel becomes `upscale` x `upscale`; `comment` is stored in the file, and so is
        `metadata`, under names of the caller's own; `growing` makes a file that can be watched before it is whole.

        Raises ValueError on a file name ending, frame rate or factor that there is not.
        """
        self.path = Path(path)
        if self.path.suffix.lower() not in CONTAINERS:
            raise ValueError(f"cannot write {path}: a video's name must end in {', '.join(CONTAINERS)}")
        if not math.isfinite(fps) or not 0.01 <= fps <= 1000:
            raise ValueError(f"frame rate is {fps}; accepted are 0.01 to 1000 frames per second")
        if not 1 <= upscale <= 64:
            raise ValueError(f"upscale is {upscale}; accepted are whole numbers from 1 to 64")
        self.rate = Fraction(fps).limit_denominator(1001)
        self.upscale = upscale
        self.metadata = {"comment": comment, **(metadata or {})}
        self.growing = growing
        self.count = 0
        self._sink: Any = None
        self._container: Any = None
        self._stream: Any = None

    @property
    def growing_path(self) -> Path:
        """Where a growing file lies until it is whole: `out.part.mp4` beside `out.mp4`."""
        return part_beside(Path(os.path.realpath(self.path)))

    def __enter__(self) -> "VideoWriter":
        if self.growing:
            with self._failures_named():
                check_target(self.growing_path)
        self._file = PartialFile(self.path)
        return self

    def append(self, frame: Tensor | np.ndarray) -> None:
        """Encode one frame [3, H, W]: floats in [0, 1] or uint8. All frames have one size. Raises ValueError; among
        others where a value is infinite or not a number, which would be black."""
        pixels = _enlarged(_to_bytes(torch.as_tensor(frame), self.count), self.upscale)
        with self._failures_named():
            if self._stream is None:
                self._open(*pixels.shape[:2])
            self._encode(pixels)
        self.count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None and self.count:
                with self._failures_named():
                    self._finish()
        finally:
            self._abandon()
            if not (self.growing and self.count):
                self._file.discard()

    def _open(self, height: int, width: int) -> None:
        import av

        name = next((name for name in ENCODERS if name in av.codecs_available and _is_encoder(name)), None)
        if name is None:
            raise ValueError(f"this FFmpeg has no video encoder of: {', '.join(ENCODERS)}; install PyAV from PyPI")
        if self.growing:
            self._file.move(part_beside(self._file.target))
        self._sink = _Sink(self._file.path)
        container = CONTAINERS[self.path.suffix.lower()]
        self._container = av.open(self._sink, "w", format=container, options=self._container_options(container))
        self._container.metadata.update(self.metadata)
        stream = self._container.add_stream(name, rate=self.rate, options=self._encoder_options(name))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
        self._stream = stream

    def _container_options(self, container: str) -> dict[str, str]:
        options = {"flush_packets": "1"} if self.growing else {}
        if container == "matroska":
            if self.growing:
                options["cluster_size_limit"] = "0"  # one frame in each cluster
            return options | {"fflags": "bitexact"}  # no random number, so that equal frames make equal files
        # Without this flag MP4 drops every tag that it has no field for.
        flags = ["use_metadata_tags"] if len(self.metadata) > 1 else []
        flags += _FRAGMENT_EACH_FRAME if self.growing else []
        return options | ({"movflags": "+".join(flags)} if flags else {})

    def _encoder_options(self, name: str) -> dict[str, str]:
        if not self.growing:
            return ENCODERS[name] | _steady_options(name)
        keyframes = {"g": str(max(1, int(_KEYFRAME_SECONDS * self.rate)))}
        return ENCODERS[name] | _WITHOUT_DELAY.get(name, {}) | keyframes

    def _encode(self, pixels: np.ndarray) -> None:
        import av

        if pixels.shape[:2] != (self._stream.height, self._stream.width):
            raise ValueError(
                f"frame {self.count} is {pixels.shape[1]}x{pixels.shape[0]} pixels, the ones before it "
                f"{self._stream.width}x{self._stream.height}"
            )
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.pts, frame.time_base = self.count, 1 / self.rate
        self._container.mux(self._stream.encode(frame))
        self._sink.flush()
        self._sink.check()

    def _finish(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._sink.close()
        self._sink.check()
        if CONTAINERS[self.path.suffix.lower()] != "matroska" and not self.growing:
            move_index_to_front(self._file.path)
        self._file.keep()

    def _abandon(self) -> None:
        if self._container is not None:
            with suppress(OSError, ValueError):
                self._container.close()
            self._sink.close()

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        import av

        try:
            yield
        except (OSError, av.FFmpegError) as error:
            raise ValueError(f"cannot write {self.path}: {reason(error)}") from None


class _Sink:
    """The file FFmpeg writes to. FFmpeg's own writes go to memory, and `flush` takes them to the file: neither a full
    disk nor Ctrl-C may strike in FFmpeg's hands, which would lose the reason and leave the file open. The first error
    is kept for `check` to raise, and what comes after it is dropped."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._file = path.open("w+b", buffering=0)
        self._pending: list[bytes] = []
        self.write = self._pending.append  # written in C, so that no signal handler runs inside it
        self._error: OSError | None = None

    def seek(self, offset: int, whence: int = 0) -> int:
        """The new position."""
        self.flush()
        return self._attempt(lambda: self._file.seek(offset, whence))

    def tell(self) -> int:
        """The position."""
        return self._attempt(self._file.tell) + sum(map(len, self._pending))

    def flush(self) -> None:
        """Hand what is still in memory to the operating system."""
        if self._error is None:
            self._attempt(self._write_out)
        if self._error is not None:
            self._pending.clear()

    def close(self) -> None:
        """Flush, and close the file."""
        self.flush()
        self._attempt(self._file.close)

    def check(self) -> None:
        """Raises OSError, the first one met."""
        if self._error is not None:
            raise self._error

    def _write_out(self) -> None:
        """All or nothing, and in one go: no player opens an MP4 that ends inside a fragment's header."""
        data = b"".join(self._pending)
        if not data:
            return
        start, size = self._file.tell(), os.fstat(self._file.fileno()).st_size
        try:
            done = 0
            while done < len(data):
                done += self._file.write(data[done:])
        except BaseException:
            self._file.seek(start)
            self._file.truncate(size)
            raise
        self._pending.clear()

    def _attempt(self, action: Callable[[], int | None]) -> int:
        try:
            return action() or 0
        except OSError as error:
            self._error = self._error or error
            return 0


def _is_encoder(name: str) -> bool:
    import av

    try:
        return bool(av.Codec(name, "w"))
    except (av.FFmpegError, ValueError):
        return False


def _steady_options(name: str) -> dict[str, str]:
    # What x264 looks ahead for lets, in AVX-512 code, memory that nobody wrote to decide (seen in the x264 of PyAV 18,
    # widths that 128 does not divide): equal frames made unequal files. The older code is as good and as fast.
    if name == "libx264" and torch.backends.cpu.get_cpu_capability() == "AVX512":
        return {"x264-params": "asm=AVX2"}
    return {}


def _to_bytes(frame: Tensor, index: int) -> np.ndarray:
    """[3, H, W], floats in [0, 1] or uint8, to [H, W, 3] uint8 with even sides (an odd one repeats its last pixels)."""
    if frame.ndim != 3 or frame.shape[0] != 3:
        raise ValueError(f"a frame is {list(frame.shape)}, expected [3, height, width]")
    if frame.dtype != torch.uint8:
        if not is_finite(frame):
            raise NotFiniteError(index)
        frame = (frame.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return frame.cpu().permute(1, 2, 0).contiguous().numpy()


def _enlarged(pixels: np.ndarray, factor: int) -> np.ndarray:
    pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    odd = [(0, side % 2) for side in pixels.shape[:2]]
    return np.ascontiguousarray(np.pad(pixels, [*odd, (0, 0)], mode="edge"))


def read_video(path: str | Path) -> Tensor:
    """All frames of a video file, [T, 3, H, W] uint8. Raises ValueError, one line, for what cannot be read."""
    import av

    try:
        with av.open(str(Path(path).absolute())) as container:
            frames = [_from_video_frame(frame) for frame in container.decode(video=0)]
    except (OSError, av.FFmpegError, IndexError) as error:
        raise ValueError(f"cannot read video {path}: {reason(error)}") from None
    if not frames:
        raise ValueError(f"cannot read video {path}: it holds no frames")
    return torch.stack(frames)


def _from_video_frame(frame: Any) -> Tensor:
    rgb = frame.reformat(format="rgb24", **color_options(frame)).to_ndarray()
    return torch.from_numpy(rgb).permute(2, 0, 1)


def mask_frames(mask: Tensor, height: int, width: int) -> Tensor:
    """Masks [T, 1, h, w] in [0, 1] to grey images [T, 3, height, width], 1 (copied) = white; cells stay square."""
    enlarged = torch.nn.functional.interpolate(mask.float(), size=(height, width), mode="nearest-exact")
    return enlarged.clamp(0, 1).expand(-1, 3, -1, -1)


# Contact sheets


def contact_sheet(rows: Sequence[tuple[str, Tensor | Sequence[Tensor]]], columns: int = 8) -> Image.Image:
    """One row of frames for each (label, frames): `columns` frames chosen evenly, first and last among them, under the
    label. Frames are [T, 3, H, W] or T times [3, H, W], floats in [0, 1] or uint8; small ones are enlarged without
    blur. Raises ValueError without rows, frames or columns."""
    if not rows or columns < 1 or any(len(frames) == 0 for _, frames in rows):
        raise ValueError("a contact sheet needs at least one row, one column, and one frame in each row")
    strips = [_strip(label, frames, columns) for label, frames in rows]
    margin = 16
    height = sum(strip.height for strip in strips) + margin * (len(strips) + 1)
    sheet = Image.new("RGB", (max(strip.width for strip in strips) + 2 * margin, height), "white")
    top = margin
    for strip in strips:
        sheet.paste(strip, (margin, top))
        top += strip.height + margin
    return sheet


def _strip(label: str, frames: Tensor | Sequence[Tensor], columns: int) -> Image.Image:
    indices = evenly_spaced(len(frames), columns)
    tiles = [_tile(frames[index], index) for index in indices]
    gap, font, small = 6, ImageFont.load_default(16), ImageFont.load_default(11)
    width, height = tiles[0].size
    full_width = columns * (width + gap) - gap
    lines = wrapped(label, font, full_width)
    header, footer = 22 * len(lines) + 4, 16
    strip = Image.new("RGB", (full_width, header + height + footer), "white")
    draw = ImageDraw.Draw(strip)
    for row, line in enumerate(lines):
        draw.text((0, 22 * row), line, fill="#222222", font=font)
    for column, (index, tile) in enumerate(zip(indices, tiles, strict=True)):
        left = column * (width + gap)
        strip.paste(tile, (left, header))
        draw.rectangle((left, header, left + width - 1, header + height - 1), outline="#cccccc")
        draw.text((left, header + height + 2), f"frame {index}", fill="#888888", font=small)
    return strip


def _tile(frame: Tensor, index: int) -> Image.Image:
    image = Image.fromarray(_to_bytes(frame, index))
    factor = max(1, round(_SHEET_TILE / min(image.size)))
    if factor > 1:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((4 * _SHEET_TILE, 2 * _SHEET_TILE), Image.Resampling.LANCZOS)
    return image


def wrapped(text: str, font: Any, width: int) -> list[str]:
    """Lines of whole words that are at most `width` pixels long in that font, if no word is longer."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def evenly_spaced(count: int, columns: int) -> list[int]:
    """At most `columns` indices out of `count`, evenly spaced, first and last among them."""
    if count <= columns:
        return list(range(count))
    return [round(column * (count - 1) / max(1, columns - 1)) for column in range(columns)]


def part_beside(target: Path) -> Path:
    """Where a growing video lies until it is whole: `out.part.mp4` for `out.mp4`."""
    return target.with_name(f"{target.stem}.part{target.suffix}")
