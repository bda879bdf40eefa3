import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from artv_core.files.partial_file import check_writable
from artv_core.media import (
    VideoWriter,
    contact_sheet,
    evenly_spaced,
    images,
    mask_frames,
    read_image,
    read_video,
    writing,
)
from tests.forked import COMMANDS, python_with


def smooth(count: int = 6, height: int = 64, width: int = 64) -> torch.Tensor:
    """Frames that H.264 stores well: colours that change slowly over space and time."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([torch.stack([x * y, (x + t / count) / 2, (1 - y) * t / count]) for t in range(count)])


def saved(path: Path, pixels: np.ndarray | Image.Image, **options: object) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


# --- images -----------------------------------------------------------------------------------------------------------


def test_an_image_of_the_wanted_size_is_read_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    image = read_image(saved(tmp_path / "a.png", pixels), 16, 24)
    assert image.shape == (1, 3, 16, 24)
    assert image.dtype == torch.float32
    assert torch.equal((image[0].permute(1, 2, 0) * 255).round().byte(), torch.from_numpy(pixels))


def test_other_sizes_are_covered_and_cropped_at_the_centre(tmp_path):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    image = read_image(saved(tmp_path / "wide.png", pixels), 40, 40)
    assert image.shape == (1, 3, 40, 40)
    assert image[..., 2:-2].min() > 0.99
    tall = read_image(saved(tmp_path / "tall.png", pixels.transpose(1, 0, 2)), 8, 8)
    assert tall.shape == (1, 3, 8, 8)
    assert tall[..., 1:-1, :].min() > 0.99
    for height, width in ((8, 64), (64, 8), (24, 40)):
        assert read_image(tmp_path / "wide.png", height, width).shape == (1, 3, height, width)


def test_of_a_long_strip_only_the_middle_is_scaled(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3000, 3), dtype=np.uint8)
    wide, tall = saved(tmp_path / "wide.png", pixels), saved(tmp_path / "tall.png", pixels.transpose(1, 0, 2))
    scaled, interpolate = [], torch.nn.functional.interpolate
    monkeypatch.setattr(
        torch.nn.functional,
        "interpolate",
        lambda image, size, **how: scaled.append(size) or interpolate(image, size, **how),
    )
    middles = [read_image(path, 40, 40) for path in (wide, tall)]
    assert scaled == [(40, 640), (640, 40)]
    monkeypatch.setattr(images, "_STRIP", 10_000)
    for path, middle in zip((wide, tall), middles, strict=True):
        torch.testing.assert_close(read_image(path, 40, 40), middle, atol=1e-4, rtol=0)
    assert scaled[2:] == [(40, 60_000), (60_000, 40)]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_with_values_that_are_no_numbers_is_refused(tmp_path, value):
    pixels = np.ones((8, 8), np.float32)
    pixels[3, 3] = value
    path = saved(tmp_path / "a.tiff", Image.fromarray(pixels))
    with pytest.raises(
        ValueError, match=r"cannot read image .*a\.tiff: some of its values are infinite or not a number"
    ):
        read_image(path, 8, 8)


def test_transparency_lies_on_white(tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, 4:] = (255, 0, 0, 128)
    image = read_image(saved(tmp_path / "a.png", pixels), 8, 8)
    torch.testing.assert_close(image[0, :, 0, 0], torch.ones(3))
    torch.testing.assert_close(image[0, :, 0, 7], torch.tensor([1, 127 / 255, 127 / 255]))
    palette = Image.fromarray(np.zeros((8, 8), np.uint8), "P")
    palette.putpalette([10, 20, 30])
    image = read_image(saved(tmp_path / "p.png", palette, transparency=0), 8, 8)
    torch.testing.assert_close(image, torch.ones(1, 3, 8, 8))


def test_grey_and_sixteen_bits(tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    image = read_image(saved(tmp_path / "l.png", grey), 8, 8)
    torch.testing.assert_close(image, torch.from_numpy(grey)[None, None].expand(1, 3, 8, 8) / 255)
    deep = (np.arange(64, dtype=np.uint16).reshape(8, 8)) * 1040
    image = read_image(saved(tmp_path / "16.png", deep), 8, 8)
    torch.testing.assert_close(image[0, 0], torch.from_numpy(deep.astype(np.float32)) / 65535)
    alpha = np.stack([grey, np.full_like(grey, 255)], -1)
    torch.testing.assert_close(read_image(saved(tmp_path / "la.png", alpha), 8, 8)[0, 2], torch.from_numpy(grey) / 255)
    assert read_image(saved(tmp_path / "1.png", Image.fromarray(grey > 100)), 8, 8).unique().tolist() == [0, 1]
    cmyk = Image.fromarray(np.zeros((8, 8, 4), np.uint8), "CMYK")
    assert read_image(saved(tmp_path / "c.jpg", cmyk), 8, 8).min() > 0.98


def test_exif_orientation_is_followed(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 8:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    image = read_image(saved(tmp_path / "a.png", pixels, exif=exif), 16, 8)
    assert image[..., :7, :].max() < 0.01
    assert image[..., 9:, :].min() > 0.99


@pytest.mark.parametrize("fault", ["missing", "folder", "text", "empty", "truncated", "damaged", "bomb"])
def test_what_is_no_image_is_one_line(tmp_path, monkeypatch, fault):
    path = tmp_path / "a.png"
    good = saved(tmp_path / "good.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    if fault == "folder":
        path.mkdir()
    elif fault == "bomb":
        path.write_bytes(good.read_bytes())
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    elif fault != "missing":
        whole = good.read_bytes()
        damaged = whole[:60] + bytes(200) + whole[260:]
        contents = {"text": b"hello", "empty": b"", "truncated": whole[:2000], "damaged": damaged}
        path.write_bytes(contents[fault])
    with pytest.raises(ValueError, match=r"cannot read image .*a\.png: ") as caught:
        read_image(path, 8, 8)
    assert "\n" not in str(caught.value)


# --- video ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "A.MP4"])
def test_frames_come_back(tmp_path, name):
    frames = smooth()
    with VideoWriter(tmp_path / name, 8, comment='{"seed": 3}') as writer:
        for index, frame in enumerate(frames):
            writer.append(frame if index % 2 else (frame * 255).round().byte())
            assert not (tmp_path / name).exists()
    back = read_video(tmp_path / name)
    assert back.shape == (6, 3, 64, 64)
    assert back.dtype == torch.uint8
    assert (back / 255 - frames).abs().mean() < 0.01
    assert os.listdir(tmp_path) == [name]
    with av.open(str(tmp_path / name)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 8
        metadata = {key.lower(): value for key, value in container.metadata.items()}
        assert json.loads(metadata["comment"]) == {"seed": 3}
        assert stream.codec_context.pix_fmt == "yuv420p"


@pytest.mark.parametrize("encoder", ["libx264", "mpeg4"])
def test_an_encoder_that_is_missing_is_replaced(tmp_path, monkeypatch, encoder):
    monkeypatch.setattr(writing, "_is_encoder", lambda name: name == encoder)
    with VideoWriter(tmp_path / "a.mp4", 8) as writer:
        for frame in smooth():
            writer.append(frame)
    assert (read_video(tmp_path / "a.mp4") / 255 - smooth()).abs().mean() < 0.02
    monkeypatch.setattr(writing, "_is_encoder", lambda name: False)
    with pytest.raises(ValueError, match="no video encoder of: libx264"), VideoWriter(tmp_path / "b.mp4", 8) as writer:
        writer.append(smooth()[0])
    assert os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("encoder", ["libx264", "mpeg4"])
def test_fine_detail_is_kept_whichever_the_encoder(tmp_path, monkeypatch, encoder):
    monkeypatch.setattr(writing, "_is_encoder", lambda name: name == encoder)
    noise = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1)
    frames = torch.stack([noise.roll(step, 2) for step in range(10)])
    with VideoWriter(tmp_path / "a.mp4", 8) as writer:
        for frame in frames:
            writer.append(frame)
    assert (read_video(tmp_path / "a.mp4") / 255 - frames).abs().mean() < 0.01


@pytest.mark.parametrize(("height", "width"), [(8, 8), (64, 64), (33, 65), (1, 1), (100, 30)])
def test_any_size(tmp_path, height, width):
    frames = smooth(3, height, width)
    with VideoWriter(tmp_path / "a.mp4", 24) as writer:
        for frame in frames:
            writer.append(frame)
    back = read_video(tmp_path / "a.mp4")
    assert back.shape == (3, 3, height + height % 2, width + width % 2)
    assert (back[..., :height, :width] / 255 - frames).abs().mean() < 0.05


def test_upscaled_pixels_keep_their_colours(tmp_path):
    colors = torch.tensor([[0.86, 0.12, 0.12], [0.13, 0.30, 0.86], [0.96, 0.9, 0.16], [0.0, 0.0, 0.0]])
    frame = colors.T.reshape(3, 2, 2).repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    with VideoWriter(tmp_path / "a.mp4", 8, upscale=8) as writer:
        for _ in range(4):
            writer.append(frame)
    back = read_video(tmp_path / "a.mp4")
    assert back.shape == (4, 3, 64, 64)
    assert (back[0, :, 4::8, 4::8] / 255 - frame).abs().max() < 0.06


@pytest.mark.parametrize("fps", [0.5, 7.5, 29.97, 1000])
def test_frame_rates(tmp_path, fps):
    with VideoWriter(tmp_path / "a.mp4", fps) as writer:
        for frame in smooth():
            writer.append(frame)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(fps, rel=1e-3)


def test_what_a_writer_refuses(tmp_path):
    for name in ("a.gif", "a", "mp4"):
        with pytest.raises(ValueError, match=r"must end in \.mp4"):
            VideoWriter(tmp_path / name, 8)
    for fps in (0, -1, float("nan"), float("inf"), 1e9):
        with pytest.raises(ValueError, match="frame rate"):
            VideoWriter(tmp_path / "a.mp4", fps)
    with pytest.raises(ValueError, match="upscale"):
        VideoWriter(tmp_path / "a.mp4", 8, upscale=0)
    with (
        pytest.raises(ValueError, match=r"expected \[3, height, width\]"),
        VideoWriter(tmp_path / "a.mp4", 8) as writer,
    ):
        writer.append(torch.zeros(1, 3, 8, 8))
    with VideoWriter(tmp_path / "a.mp4", 8) as writer:
        writer.append(torch.zeros(3, 8, 8))
        with pytest.raises(ValueError, match="frame 1 is 16x8 pixels, the ones before it 8x8"):
            writer.append(torch.zeros(3, 8, 16))
    assert len(read_video(tmp_path / "a.mp4")) == 1


def test_nothing_is_left_behind_without_frames_or_after_an_error(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 8):
        assert len(os.listdir(tmp_path)) == 1
    assert os.listdir(tmp_path) == []
    (tmp_path / "a.mp4").write_bytes(b"old")
    with suppress(KeyError), VideoWriter(tmp_path / "a.mp4", 8) as writer:
        writer.append(smooth()[0])
        raise KeyError
    assert os.listdir(tmp_path) == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"old"


def unwritable(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.mp4").mkdir()
    return {
        "no folder": tmp_path / "none" / "a.mp4",
        "not a directory|no folder": tmp_path / "file" / "a.mp4",
        "it is a folder": tmp_path / "folder.mp4",
        "too long": tmp_path / f"{'a' * 300}.mp4",
        "cannot write": Path("/proc/none.mp4"),
    }


def test_paths_that_cannot_be_written_are_found_on_entering(tmp_path):
    for message, path in unwritable(tmp_path).items():
        with pytest.raises(ValueError, match=message) as caught, VideoWriter(path, 8):
            pytest.fail("entered")
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match=message):
            check_writable(path)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.mp4"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "a.mp4").symlink_to(tmp_path / "real" / "b.mp4")
    with VideoWriter(tmp_path / "a.mp4", 8) as writer:
        writer.append(smooth()[0])
    assert (tmp_path / "a.mp4").is_symlink()
    assert os.listdir(tmp_path / "real") == ["b.mp4"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB, where this process may mount one."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a tmpfs; the test with a limit on file size stands in")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def write_noise(path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    with VideoWriter(path, 8) as writer:
        for _ in range(40):
            writer.append(torch.rand(3, 128, 128, generator=generator))


def test_a_full_disk_is_one_line_and_leaves_nothing(small_disk):
    with pytest.raises(ValueError, match=r"cannot write .*a\.mp4: no space left on device"):
        write_noise(small_disk / "a.mp4")
    assert os.listdir(small_disk) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_file_that_may_not_grow_is_one_line_and_leaves_nothing(tmp_path, file_size_limit, name):
    refused = pytest.raises(ValueError, match=r"cannot write .*a\.m.*: file too large")
    with file_size_limit(16 * 1024), refused:
        write_noise(tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_a_disk_that_is_full_only_at_the_end(tmp_path, file_size_limit):
    refused = pytest.raises(ValueError, match="file too large")
    with file_size_limit(16 * 1024), refused, VideoWriter(tmp_path / "a.mp4", 8) as writer:
        writer.append(torch.rand(3, 256, 256))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [None, b"", b"hello", b"\x00\x00\x00\x20ftypisom" + bytes(100)])
def test_what_is_no_video_is_one_line(tmp_path, content):
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot read video") as caught:
        read_video(path)
    assert "\n" not in str(caught.value)


# --- video that grows -------------------------------------------------------------------------------------------------


def append_all(writer: VideoWriter, frames: torch.Tensor) -> None:
    for frame in frames:
        writer.append(frame)


def tags(path: Path) -> dict[str, str]:
    with av.open(str(path)) as container:
        return {key.lower(): value for key, value in container.metadata.items()}


@pytest.mark.parametrize("encoder", ["libx264", "mpeg4"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_a_growing_file_can_be_watched(tmp_path, monkeypatch, name, encoder):
    monkeypatch.setattr(writing, "_is_encoder", lambda name: name == encoder)
    frames, target = smooth(12), tmp_path / name
    tolerance = 0.01 if encoder == "libx264" else 0.04
    writer = VideoWriter(target, 8, growing=True, comment="words", metadata={"prompt": '{"seed": 3}'})
    assert writer.growing_path == tmp_path / f"a.part{target.suffix}"
    target.write_bytes(b"old")
    writer.growing_path.write_bytes(b"older part")
    with writer:
        assert writer.growing_path.read_bytes() == b"older part"
        for count, frame in enumerate(frames, 1):
            writer.append(frame)
            assert writer.growing_path.stat().st_size > 100
            if count > 1:
                seen = read_video(writer.growing_path)
                assert len(seen) >= count - 1
                assert (seen / 255 - frames[: len(seen)]).abs().mean() < tolerance
            assert target.read_bytes() == b"old"
        assert tags(writer.growing_path).items() >= {"comment": "words", "prompt": '{"seed": 3}'}.items()
    assert os.listdir(tmp_path) == [name]
    seen = read_video(target)
    assert len(seen) == 12
    assert (seen / 255 - frames).abs().mean() < tolerance
    assert tags(target).items() >= {"comment": "words", "prompt": '{"seed": 3}'}.items()
    with av.open(str(target)) as container:
        assert container.streams.video[0].average_rate == 8
        assert container.duration == 1_500_000


def test_a_growing_file_outlives_its_process(tmp_path):
    program = f"""
import os, signal, sys, torch
from artv_core.media import VideoWriter
writers = [VideoWriter(os.path.join({str(tmp_path)!r}, name), 8, growing=True) for name in ("a.mp4", "a.mkv")]
for writer in writers:
    writer.__enter__()
for index in range(7):
    for writer in writers:
        writer.append(torch.full((3, 64, 64), index / 10))
os.kill(os.getpid(), signal.SIGKILL)
"""
    child = python_with(*COMMANDS).run(program)
    assert child.returncode == -signal.SIGKILL, child.stderr
    videos = sorted(path for path in tmp_path.iterdir() if not path.name.startswith("."))
    assert [path.name for path in videos] == ["a.part.mkv", "a.part.mp4"]
    for path in videos:
        seen = read_video(path)
        assert len(seen) >= 6
        for index, frame in enumerate(seen):
            assert abs(frame.float().mean() / 255 - index / 10) < 0.02


def test_a_growing_file_has_one_writer(tmp_path):
    """A second run must not put its file in the place of the first one's."""
    target, frames = tmp_path / "a.mp4", smooth(3)
    with VideoWriter(target, 8, growing=True) as writer:
        append_all(writer, frames)
        with pytest.raises(ValueError, match=r"a\.part\.mp4: another run is writing it"):
            append_all(VideoWriter(target, 8, growing=True).__enter__(), frames[:1])
        append_all(writer, frames)
    assert os.listdir(tmp_path) == ["a.mp4"]
    assert len(read_video(target)) == 6
    write_growing(target)  # the path is free again
    (tmp_path / ".a.part.mp4.lock").touch()  # left by a process that was killed
    write_growing(target)
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_a_growing_file_is_written_where_no_lock_file_can_be_made(tmp_path):
    (tmp_path / ".a.part.mp4.lock").mkdir()
    write_growing(tmp_path / "a.mp4")
    long = f"{'b' * 243}.mp4"  # only the lock file's name is too long
    write_growing(tmp_path / long)
    assert sorted(os.listdir(tmp_path)) == [".a.part.mp4.lock", "a.mp4", long]


def write_growing(path: Path) -> None:
    with VideoWriter(path, 8, growing=True) as writer:
        append_all(writer, smooth(2))


def append_and_fail(writer: VideoWriter, frames: torch.Tensor, fault: type[BaseException]) -> None:
    with writer:
        append_all(writer, frames)
        if fault is ValueError:
            writer.append(torch.zeros(3, 8, 8))
        raise fault


@pytest.mark.parametrize("fault", [KeyboardInterrupt, RuntimeError, ValueError])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_an_error_leaves_the_growing_file(tmp_path, name, fault):
    target, frames = tmp_path / name, smooth(5)
    target.write_bytes(b"old")
    writer = VideoWriter(target, 8, growing=True)
    with pytest.raises(fault, match="frame 5 is 8x8" if fault is ValueError else None):
        append_and_fail(writer, frames, fault)
    assert target.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == sorted([name, writer.growing_path.name])
    seen = read_video(writer.growing_path)
    assert len(seen) == 5
    assert (seen / 255 - frames).abs().mean() < 0.01


class InterruptedFile:
    """Ctrl-C comes within the first write."""

    def __init__(self, sink):
        self.sink, self.file = sink, sink._file
        sink._file = self

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        self.sink._file = self.file
        self.file.write(data[:20])
        raise KeyboardInterrupt


def test_an_interrupted_write_is_made_good(tmp_path):
    frames = smooth(5)
    with suppress(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", 8, growing=True) as writer:
        append_all(writer, frames[:4])
        InterruptedFile(writer._sink)
        writer.append(frames[4])
    seen = read_video(writer.growing_path)
    assert len(seen) == 5
    assert (seen / 255 - frames).abs().mean() < 0.01


def test_no_frame_no_growing_file(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4", 8, growing=True)
    with writer:
        pass
    with pytest.raises(ValueError, match="expected"), writer:
        writer.append(torch.zeros(1, 8, 8))
    assert os.listdir(tmp_path) == []
    writer.growing_path.write_bytes(b"older part")
    with suppress(KeyError), writer:
        raise KeyError
    assert os.listdir(tmp_path) == ["a.part.mp4"]
    assert writer.growing_path.read_bytes() == b"older part"


def test_growing_paths_that_cannot_be_written_are_found_on_entering(tmp_path):
    (tmp_path / "b.part.mp4").mkdir()
    refused = {**unwritable(tmp_path), "it is a folder": tmp_path / "b.mp4"}
    for path in [*refused.values(), tmp_path / f"{'a' * 250}.mp4"]:
        with pytest.raises(ValueError, match="cannot write") as caught, VideoWriter(path, 8, growing=True):
            pytest.fail("entered")
        assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["b.part.mp4", "file", "folder.mp4"]


def test_a_growing_file_lies_beside_what_a_link_names(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "a.mp4").symlink_to(tmp_path / "real" / "b.mp4")
    with VideoWriter(tmp_path / "a.mp4", 8, growing=True) as writer:
        append_all(writer, smooth(2))
        assert sorted(os.listdir(tmp_path / "real")) == [".b.part.mp4.lock", "b.part.mp4"]
    assert (tmp_path / "a.mp4").is_symlink()
    assert os.listdir(tmp_path / "real") == ["b.mp4"]


@pytest.mark.parametrize(("name", "header"), [("a.mp4", 110), ("a.mkv", 40)])
def test_a_full_disk_leaves_the_frames_that_fitted(tmp_path, file_size_limit, name, header):
    """Wherever the disk ends: before a fragment, inside its header, inside its picture."""
    frames, target, sizes = smooth(6, 32, 32), tmp_path / name, []
    with VideoWriter(target, 8, growing=True) as writer:
        for frame in frames:
            writer.append(frame)
            sizes.append(writer.growing_path.stat().st_size)
    target.unlink()
    for limit in [*range(sizes[3], sizes[3] + header, 4), sizes[4] - 1]:
        writer = VideoWriter(target, 8, growing=True)
        refused = pytest.raises(ValueError, match=r"cannot write .*a\.m.*: file too large")
        with file_size_limit(limit), refused as caught, writer:
            append_all(writer, frames)
        assert "\n" not in str(caught.value)
        assert os.listdir(tmp_path) == [writer.growing_path.name]
        seen = read_video(writer.growing_path)
        assert len(seen) == 3
        assert (seen / 255 - frames[:3]).abs().mean() < 0.02


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_disk_too_small_for_the_first_frame_leaves_nothing(tmp_path, file_size_limit, name):
    refused = pytest.raises(ValueError, match="file too large")
    with file_size_limit(100), refused, VideoWriter(tmp_path / name, 8, growing=True) as writer:
        append_all(writer, smooth())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("fps", [0.1, 4])
def test_a_growing_file_has_a_keyframe_every_two_seconds(tmp_path, fps):
    with VideoWriter(tmp_path / "a.mp4", fps, growing=True) as writer:
        append_all(writer, torch.zeros(30, 3, 16, 16))
    with av.open(str(tmp_path / "a.mp4")) as container:
        keyframes = [frame.time for frame in container.decode(video=0) if frame.key_frame]
    assert keyframes == [index * max(2, 1 / fps) for index in range(len(keyframes))]
    assert len(keyframes) == (30 if fps < 1 else 4)


@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_equal_frames_make_equal_files(tmp_path, name, growing):
    contents, frames = set(), smooth(12, 96, 208)
    for _ in range(4):
        with VideoWriter(tmp_path / name, 8, comment="words", metadata={"a": "b"}, growing=growing) as writer:
            append_all(writer, frames)
        contents.add((tmp_path / name).read_bytes())
    assert len(contents) == 1


# --- masks and sheets -------------------------------------------------------------------------------------------------


def test_mask_frames():
    mask = torch.tensor([[0.0, 1.0], [0.25, 2.0]])[None, None]
    frames = mask_frames(mask, 4, 6)
    assert frames.shape == (1, 3, 4, 6)
    assert frames[0, 1].tolist() == [[0, 0, 0, 1, 1, 1]] * 2 + [[0.25, 0.25, 0.25, 1, 1, 1]] * 2


def test_evenly_spaced():
    assert evenly_spaced(16, 8) == [0, 2, 4, 6, 9, 11, 13, 15]
    assert evenly_spaced(3, 8) == [0, 1, 2]
    assert evenly_spaced(9, 1) == [0]


def test_contact_sheet():
    red, blue = torch.zeros(16, 3, 64, 64), torch.zeros(2, 3, 64, 64)
    red[:, 0], blue[:, 2] = 1, 1
    sheet = contact_sheet([("a red clip", red), ("a blue clip with a label " * 20, list(blue))], columns=4)
    colors = {color: count for count, color in sheet.getcolors(sheet.width * sheet.height)}
    inside = (128 - 2) ** 2
    assert colors[(255, 0, 0)] == 4 * inside
    assert colors[(0, 0, 255)] == 2 * inside
    assert sheet.width < 4 * 128 + 80
    for rows in ([], [("empty", [])]):
        with pytest.raises(ValueError, match="contact sheet"):
            contact_sheet(rows)
