"""Reads single frames of video files by their time, with PyAV, decoding as little as possible.

Second 0 of a file is its first frame. A frame is shown from its time stamp until the next one's, so files with a
variable frame rate need no special care. The frame found for a time is exact, whatever was skipped to reach it.
"""

import errno
import functools
import math
import stat
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..media.colors import color_options
from ..method.image_size import MAX_SIDE
from .clips import BrokenClip, may_pass
from .sources import Entry

HELD_SECONDS = 0.5
"""How long the last frame is shown if the file does not say. Files often end a little earlier than they claim."""

# The list also keeps a file from making FFmpeg open other files. In these containers frames can be found exactly by
# their times.
_OPTIONS = {
    "protocol_whitelist": "file,subfile",
    "format_whitelist": "mov,matroska,avi,mpegts,mpeg,asf,flv,ogg,gif,mxf,dv,nut,ivf,yuv4mpegpipe",
}
_UNSEEKABLE = ("mpeg",)
"""Formats in which a seek may land after frames that are needed for decoding. These are read from the start."""
_TOLERANCE = 0.0005  # seconds; rounding to the file's clock moves a time stamp by up to half a tick
_MAX_REORDERED = 16  # the most frames stored before a frame that is shown earlier, in H.264 and HEVC
_SKIPPABLE = ("h264", "mpeg4")  # codecs in which a frame says whether other frames need it


@dataclass(frozen=True)
class ClipFacts:
    """A clip as it is shown: seconds between its start and end, size in pixels after rotation and with square pixels,
    and the file's own frames per second (0 if the file does not say)."""

    duration: float
    height: int
    width: int
    fps: float


def probe(entry: Entry) -> ClipFacts:
    """Facts of a clip. Decodes its first frame, and reads its end without decoding. Raises BrokenClip."""
    with _opened(entry) as video:
        frame = _shown_at(video, [0.0])[0]
        height, width = _shown_size(video, frame)
        if not 1 <= min(height, width) <= max(height, width) <= MAX_SIDE:
            raise _ClipError(f"it is {width}x{height} pixels; accepted are up to {MAX_SIDE}")
        end = _end(video, entry.end)
        if end <= entry.start:
            raise _ClipError(f"the clip starts at {entry.start:g} s, and the video ends at {end:g} s")
        return ClipFacts(end - entry.start, height, width, _rate(video))


def read_frames(entry: Entry, times: Sequence[float], size: tuple[int, int]) -> Tensor:
    """The frames shown at `times`, seconds from the clip's start in any order: [n, 3, H, W] float32 in [0, 1].

    Each is scaled, without aliasing, until it just covers `size` (height, width), and cropped around its centre. A time
    before the first frame gives the first. Raises BrokenClip, also if the file ends before one of the times.
    """
    wanted = [entry.start + time for time in times]
    with _opened(entry) as video:
        moments = sorted(set(wanted))
        shown = dict(zip(moments, _shown_at(video, moments), strict=True))
        images = {frame.pts: _image(video, frame, size) for frame in shown.values()}
        return torch.stack([images[shown[moment].pts] for moment in wanted])


def iterate_frames(entry: Entry) -> Iterator[tuple[float, Any]]:
    """All frames that begin within a clip, in order, as (seconds from its start, PyAV's frame). Raises BrokenClip."""
    with _opened(entry) as video:
        end = math.inf if entry.end is None else entry.end - _TOLERANCE
        for stamp, frame in _stamped(video, _packets(video, entry.start, entry.start)):
            seconds = video.seconds(stamp)
            if seconds >= end:
                return
            if seconds >= entry.start - _TOLERANCE:
                yield max(seconds - entry.start, 0.0), frame


def count_frames(duration: float, fps: float) -> int:
    """How many frames a clip has at `fps`: floor(duration * fps). Frame k is the one shown at k / fps. A remainder at
    the end that is shorter than a frame is left out."""
    return math.floor((duration + 0.002) * fps)  # some files count in milliseconds and round down


class _ClipError(Exception):
    """What is wrong with a file, without the file's name."""


@dataclass
class _Video:
    """An open file. `origin` is its first frame's time stamp, in ticks of `tick` seconds."""

    container: Any
    stream: Any
    tick: float
    origin: int
    reformatter: Any
    untouched: bool = True  # nothing has been read yet
    interrupted: bool = False  # the drive or the system failed while packets were read

    @property
    def counted(self) -> bool:
        """Whether packets have only decoding times (AVI). Decoding order can differ from the order in which frames are
        shown."""
        return self.container.format.name == "avi"

    @property
    def unseekable(self) -> bool:
        """Whether the file must be read from its start."""
        return self.container.format.name in _UNSEEKABLE

    def ticks(self, seconds: float) -> float:
        return self.origin + seconds / self.tick

    def seconds(self, ticks: float) -> float:
        return (ticks - self.origin) * self.tick


@contextmanager
def _opened(entry: Entry) -> Iterator[_Video]:
    """Open the video. Raises BrokenClip for anything wrong with the file, also while the block reads it."""
    import av
    from av.video.reformatter import VideoReformatter

    video = None
    try:
        with av.open(_address(entry), options=_OPTIONS, metadata_errors="replace") as container:
            stream = container.streams.best("video")  # not a cover picture
            if stream is None:
                raise _ClipError("it holds no video")
            if stream.codec_context is None:
                raise _ClipError("there is no decoder for its video")
            stream.codec_context.thread_count = 1  # many clips are read in many processes, so one thread each is enough
            video = _Video(container, stream, float(stream.time_base or 0), stream.start_time or 0, VideoReformatter())
            yield video
    except (_ClipError, OSError, av.FFmpegError, ValueError, ArithmeticError, MemoryError) as error:
        passing = may_pass(error) or (video is not None and video.interrupted)
        raise BrokenClip(f"{entry.name}: {_reason(error)}", passing) from None


def _address(entry: Entry) -> str:
    """What FFmpeg opens: a file, or the bytes of a shard that a member occupies."""
    path = entry.path.absolute()
    if not stat.S_ISREG(path.stat().st_mode):
        raise _ClipError("it is not an ordinary file")
    if entry.member is None:
        return f"file:{path}"
    return f"subfile,,start,{entry.offset},end,{entry.offset + entry.size},,:{path}"


def _reason(error: Exception) -> str:
    import av

    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, _ClipError):
        return str(error)
    if isinstance(error, (av.InvalidDataError, EOFError)) or getattr(error, "errno", None) == errno.EINVAL:
        return "it is damaged, or no kind of video that can be read; those that can are MP4, MKV, AVI and the like"
    text = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return f"it cannot be read ({text[:150]})"


def _rate(video: _Video) -> float:
    return float(video.stream.average_rate or video.stream.guessed_rate or 0)


# Time


def _shown_at(video: _Video, times: list[float]) -> list[Any]:
    """The frames shown at the ascending `times` (seconds of the file). Each frame is decoded only once."""
    packets = _packets(video, times[0], times[-1])
    stamps = sorted(packet.pts for packet in packets if not packet.is_discard)
    if not stamps:
        raise _ClipError("it holds no frames")
    chosen = [_chosen(video, stamps, time) for time in times]
    _check_reach(video, packets, chosen[-1], times[-1])
    frames = _decoded(video, packets, set(chosen))
    if all(stamp in frames for stamp in chosen):
        return [frames[stamp] for stamp in chosen]
    return _shown_of_all(video, packets, times)


def _shown_of_all(video: _Video, packets: list[Any], times: list[float]) -> list[Any]:
    """The same for videos in which some packets do not become frames: one may be a field of an interlaced frame, or
    damaged."""
    frames = _decoded(video, packets, None)
    stamps = sorted(frames)
    chosen = [_chosen(video, stamps, time) if stamps else 0 for time in times]
    for stamp, time in zip(chosen, times, strict=True):
        if stamp not in frames or time > video.seconds(stamp) + HELD_SECONDS:
            raise _ClipError(f"nothing can be decoded at {time:.3f} s")
    return [frames[stamp] for stamp in chosen]


def _chosen(video: _Video, stamps: list[int], time: float) -> int:
    """The last of the time stamps that is not after `time`; else the first."""
    tolerance = min(_TOLERANCE / video.tick, 0.5)
    return stamps[max(0, bisect_right(stamps, video.ticks(time) + tolerance) - 1)]


def _check_reach(video: _Video, packets: list[Any], stamp: int, time: float) -> None:
    """Raises an error if the frame is no longer shown at `time`. This can happen only with the last frame of a file."""
    duration = max((packet.duration or 0 for packet in packets if packet.pts == stamp), default=0)
    if stamp == max(packet.pts for packet in packets):
        end = video.seconds(stamp + duration)
        if time > max(end, video.seconds(stamp) + HELD_SECONDS):
            raise _ClipError(f"the video ends at {end:.3f} s, before {time:.3f} s")


def _packets(video: _Video, first: float, last: float) -> list[Any]:
    """Undecoded packets in the file's order, from a key frame not after `first` until everything shown up to `last` is
    included."""
    back = first if video.counted or video.unseekable else 0.0
    while True:
        start = first - back
        packets = _packets_from(video, start, video.ticks(last) + 1)
        if packets and (start <= 0 or packets[0].pts <= video.ticks(first)):
            return packets
        if start <= 0:
            raise _ClipError("it holds no frames")
        back = max(1.0, 4 * back)


def _packets_from(video: _Video, start: float, last: float) -> list[Any]:
    import av

    packets: list[Any] = []
    later = 0
    if start > 0 or not video.untouched:
        _seek(video, start)
    video.untouched = False
    try:
        for packet in video.container.demux(video.stream):
            if packet.size == 0 or packet.is_corrupt or not (packets or packet.is_keyframe):
                continue
            if video.counted:
                packet.pts = packet.dts
            if packet.pts is None:
                raise _ClipError("its frames carry no times")
            packets.append(packet)
            later += packet.pts > last
            if later > _MAX_REORDERED or (packet.dts is not None and packet.dts > last and not video.counted):
                break
    except (av.FFmpegError, EOFError) as error:  # a damaged end; the time stamps tell later whether it was needed
        video.interrupted |= may_pass(error)
    return packets


def _seek(video: _Video, seconds: float) -> None:
    import av

    if seconds <= 0:
        # Seeking to 0 would lead to the second key frame of an MPEG-TS; seeking before 0 fails in an AVI.
        with suppress(av.FFmpegError):
            video.container.seek(round(video.ticks(-10.0)), stream=video.stream)
            return
    video.container.seek(round(video.ticks(max(0.0, seconds))), stream=video.stream)


def _end(video: _Video, limit: float | None) -> float:
    """When the last frame ends, or `limit` if that is earlier. Raises an error if the file claims to be longer."""
    claimed = video.stream.duration
    length = claimed * video.tick if claimed else (video.container.duration or 0) / 1e6
    target = length if limit is None else min(limit, length)
    packets = _packets(video, max(target, 0.0), math.inf if limit is None else limit)
    last = max(packets, key=lambda packet: packet.pts)
    end = video.seconds(last.pts) + (last.duration * video.tick if last.duration else 1 / (_rate(video) or 25))
    if end < target - HELD_SECONDS and claimed:
        raise _ClipError(f"the video ends at {end:.3f} s of {length:.3f} s: it was cut off")
    return end if limit is None else min(end, limit)


# Decoding


def _decoded(video: _Video, packets: list[Any], wanted: set[int] | None) -> dict[int, Any]:
    """Frames by time stamp: the `wanted` ones (None: all). Decodes only what they need."""
    frames: dict[int, Any] = {}
    if video.counted and wanted is not None:
        shown = _decoded(video, packets, None).values()  # fewer than packets if the last ones show nothing new
        return dict(zip(sorted(packet.pts for packet in packets), shown, strict=False))
    for start, stop in _runs(packets, wanted):
        for frame in _decoded_run(video, packets[start:stop], wanted):
            if frame.pts is None or frame.pts < packets[start].pts:  # it needed frames from before the key frame
                continue
            _check_whole(video, frame, frame.pts)
            if wanted is None or frame.pts in wanted:
                frames[frame.pts] = frame
    return frames


def _check_whole(video: _Video, frame: Any, stamp: int) -> None:
    if frame.is_corrupt:
        raise _ClipError(f"it is damaged at {video.seconds(stamp):.3f} s")


def _runs(packets: list[Any], wanted: set[int] | None) -> list[tuple[int, int]]:
    """The stretches [start, stop) of packets to decode, each from a key frame to the last wanted frame before a gap."""
    if wanted is None:
        return [(0, len(packets))]
    runs: list[tuple[int, int]] = []
    keys: list[int] = []
    for position, packet in enumerate(packets):
        if packet.is_keyframe:
            keys.append(position)
        if packet.pts not in wanted:
            continue
        # A frame stored after a key frame but shown before it may also need the preceding group of frames.
        start = keys[-2] if packet.pts < packets[keys[-1]].pts and len(keys) > 1 else keys[-1]
        if runs and start < runs[-1][1]:
            runs[-1] = (runs[-1][0], position + 1)
        else:
            runs.append((start, position + 1))
    return runs


def _stamped(video: _Video, packets: list[Any]) -> Iterator[tuple[int, Any]]:
    """Frames with their time stamps, of `packets` and of everything after them in the file."""
    decoding_order: deque[int] = deque()
    for packet in chain(packets, video.container.demux(video.stream)):
        if video.counted and packet.dts is not None:
            packet.pts = packet.dts
            decoding_order.append(packet.dts)
        for frame in video.stream.codec_context.decode(packet if packet.size else None):
            stamp = decoding_order.popleft() if video.counted else frame.pts
            if stamp is None or stamp < packets[0].pts:
                continue
            _check_whole(video, frame, stamp)
            yield stamp, frame


def _decoded_run(video: _Video, packets: list[Any], wanted: set[int] | None) -> Iterator[Any]:
    codec = video.stream.codec_context
    codec.flush_buffers()
    skipped = "NONREF" if codec.name in _SKIPPABLE else "DEFAULT"
    for packet in packets:
        codec.skip_frame = "DEFAULT" if wanted is None or packet.pts in wanted else skipped
        yield from codec.decode(packet)
    yield from codec.decode(None)


# Images


def _image(video: _Video, frame: Any, size: tuple[int, int]) -> Tensor:
    """[3, H, W] float32 in [0, 1]."""
    turns = _quarter_turns(frame)
    height, width = size if turns % 2 == 0 else size[::-1]  # the size before it is turned
    shown_width = frame.width * _pixel_aspect(video)
    scale = max(height / frame.height, width / shown_width)
    scaled = max(height, round(frame.height * scale)), max(width, round(shown_width * scale))
    if max(scaled) > MAX_SIDE:
        raise _ClipError(f"it is {frame.width}x{frame.height} pixels, which is too narrow for {size[1]}x{size[0]}")
    # When swscale's bicubic filter makes an image smaller, it widens, so nothing aliases.
    how = {"interpolation": "BICUBIC", **_one_thread(), **color_options(frame)}
    rgb = video.reformatter.reformat(frame, scaled[1], scaled[0], "rgb24", **how).to_ndarray()
    top, left = (scaled[0] - height) // 2, (scaled[1] - width) // 2
    image = torch.from_numpy(rgb[top : top + height, left : left + width])
    return image.rot90(turns, (0, 1)).permute(2, 0, 1).float() / 255


@functools.cache
def _one_thread() -> dict[str, int]:
    """Options that keep PyAV from scaling in threads, which is slower. Versions before PyAV 17 have no such option."""
    from av.video.reformatter import VideoReformatter

    return {"threads": 1} if "threads" in (VideoReformatter.reformat.__doc__ or "") else {}


def _shown_size(video: _Video, frame: Any) -> tuple[int, int]:
    height, width = frame.height, max(1, round(frame.width * _pixel_aspect(video)))
    return (height, width) if _quarter_turns(frame) % 2 == 0 else (width, height)


def _pixel_aspect(video: _Video) -> float:
    """A pixel's width over its height."""
    return float(video.stream.sample_aspect_ratio or 1)


def _quarter_turns(frame: Any) -> int:
    """How many times the frame must be turned left by 90 degrees to be shown upright."""
    return round(getattr(frame, "rotation", 0) / 90) % 4
