"""Writing video files frame by frame. A temporary file beside the target is renamed when it is complete."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..files.file_locks import only_writer
from ..files.partial_file import PartialFile, check_target, reason
from .faststart import move_index_to_front
from .pixels import to_bytes
from .sink import Sink

CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""File name endings that a video may have, with FFmpeg's container names."""

ENCODERS = {
    "libx264": {"crf": "14", "preset": "medium"},
    "libopenh264": {"b": "8M"},
    "mpeg4": {"qmin": "2", "qmax": "2"},
}
"""Video encoders in order of preference, with options for visually lossless quality."""

_WITHOUT_DELAY = {"libx264": {"tune": "zerolatency"}}  # the other encoders do not delay frames
_KEYFRAME_SECONDS = 2  # distance between the frames that a player can jump to, in a growing file
_FRAGMENT_EACH_FRAME = ["empty_moov", "default_base_moof", "frag_every_frame", "skip_trailer"]

_BT709, _LIMITED_RANGE = 1, 1  # FFmpeg's AVCOL_SPC_BT709 and AVCOL_RANGE_MPEG


class VideoWriter:
    """Context manager that encodes frames one by one: H.264 (yuv420p), or MPEG-4 if FFmpeg has no H.264 encoder.

    The file gets its final name when the context ends. If no frame was appended or an error was raised, the file is
    removed. Raises ValueError if writing fails, and on entering if the path cannot be written.

    A finished MP4 or MOV has its index in front, so that a web page can play it before the download is complete.

    A `growing` file can be watched while it is written. From the first frame on it is at `growing_path`, where it
    replaces an older file. At any time, even after the process was killed, it contains every appended frame except the
    last. At the end it gets its final name, like any other file. After an error it stays where it is, closed and with
    all its frames. A path can have one writer of a growing file at a time: on entering, a second one raises ValueError.
    A growing file is larger, since the encoder cannot look ahead. The memory for writing it does not depend on the
    number of frames.
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
        """`fps` is in frames per second. Each pixel becomes `upscale` x `upscale` pixels. The file's metadata gets
        `comment`, and `metadata` under the caller's own names. `growing` makes a file that can be watched while it is
        written.

        Raises ValueError if the file name ending, frame rate or factor is not supported.
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
        """Path of a growing file until it is complete: `out.part.mp4` beside `out.mp4`."""
        return part_beside(Path(os.path.realpath(self.path)))

    def __enter__(self) -> "VideoWriter":
        with ExitStack() as held:
            if self.growing:
                with self._failures_named():
                    check_target(self.growing_path)
                held.enter_context(only_writer(self.growing_path))
            self._file = PartialFile(self.path)
            self._held = held.pop_all()
        return self

    def append(self, frame: Tensor | np.ndarray) -> None:
        """Encode one frame [3, H, W]: floats in [0, 1] or uint8. All frames must have the same size. Raises ValueError
        if the size differs, if writing fails, or if a value is infinite or not a number (it would be black)."""
        pixels = _enlarged(to_bytes(torch.as_tensor(frame), self.count), self.upscale)
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
            self._held.close()

    def _open(self, height: int, width: int) -> None:
        import av

        name = next((name for name in ENCODERS if name in av.codecs_available and _is_encoder(name)), None)
        if name is None:
            raise ValueError(f"this FFmpeg has no video encoder of: {', '.join(ENCODERS)}; install PyAV from PyPI")
        if self.growing:
            self._file.move(part_beside(self._file.target))
        self._sink = Sink(self._file.path)
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
            return options | {"fflags": "bitexact"}  # no random ID, so that equal frames make equal files
        # Without this flag, MP4 drops every tag that it has no field for.
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


def _is_encoder(name: str) -> bool:
    import av

    try:
        return bool(av.Codec(name, "w"))
    except (av.FFmpegError, ValueError):
        return False


def _steady_options(name: str) -> dict[str, str]:
    # The AVX-512 code of x264's lookahead reads uninitialised memory, so equal frames made different files (seen in the
    # x264 of PyAV 18, at widths that are not multiples of 128). The AVX2 code is as good and as fast.
    if name == "libx264" and torch.backends.cpu.get_cpu_capability() == "AVX512":
        return {"x264-params": "asm=AVX2"}
    return {}


def _enlarged(pixels: np.ndarray, factor: int) -> np.ndarray:
    pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    odd = [(0, side % 2) for side in pixels.shape[:2]]
    return np.ascontiguousarray(np.pad(pixels, [*odd, (0, 0)], mode="edge"))


def part_beside(target: Path) -> Path:
    """Path of a growing video until it is complete: `out.part.mp4` for `out.mp4`."""
    return target.with_name(f"{target.stem}.part{target.suffix}")
