"""Reading clips to train on: what a source holds, the frame shown at a time, the order of clips."""

import errno
import io
import json
import os
import pickle
import random
import tarfile
from bisect import bisect_right
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from artv_core.data import shards
from artv_core.data.buckets import make_buckets, nearest_bucket
from artv_core.data.clips import BrokenClip, ClipIndex
from artv_core.data.decode import count_frames, iterate_frames, probe, read_frames
from artv_core.data.order import BrokenCount, ClipOrder, RepairedClips, fitting_held_out, hold_out
from artv_core.data.sources import Entry, list_entries
from artv_core.data.videos import open_videos
from artv_core.media import read_video
from tests.clip_files import HEIGHT, WIDTH, number_of, numbered_frame, write_animation, write_shard, write_video

SMALL = (24, 32)


def entry(path: Path, **seconds: float) -> Entry:
    return Entry(path, None, "a clip", label=path.name, **seconds)


# The frame shown at a time

UNEVEN = np.cumsum([0, *random.Random(1).choices((20, 33, 40, 100, 250), k=119)]).tolist()
MILLISECOND = Fraction(1, 1000)
VIDEOS = {
    "24.mp4": {"fps": 24, "b_frames": 3},
    "30.mp4": {"fps": 30, "gop": 250, "b_frames": 3},
    "12.5.mp4": {"fps": 12.5, "b_frames": 3},
    "29.97.mkv": {"fps": 30000 / 1001},
    "open.mp4": {"options": {"x264-params": "open-gop=1:bframes=3:b-pyramid=2"}},
    "uneven.mp4": {"stamps": UNEVEN, "tick": MILLISECOND},
    "late.mkv": {"stamps": [stamp + 5000 for stamp in UNEVEN], "tick": MILLISECOND},
    "24.ts": {"fps": 24},
    "mpeg4.mp4": {"fps": 30, "codec": "mpeg4"},
    "mpeg4.avi": {"fps": 24, "codec": "mpeg4"},
    "x.mts": {"b_frames": 3},
    "x.m2ts": {"codec": "mpeg2video"},
    "x.3gp": {"codec": "mpeg4"},
    "x.f4v": {},
    "x.mpg": {"codec": "mpeg1video", "gop": 12},
    "x.vob": {"codec": "mpeg2video", "gop": 15},
    "x.mpeg": {"codec": "mpeg2video", "gop": 200},
    "x.wmv": {"codec": "wmv2", "b_frames": 0},
    "x.asf": {"codec": "msmpeg4v3", "b_frames": 0},
    "x.flv": {"b_frames": 3, "gop": 30},
    "old.flv": {"codec": "flv", "b_frames": 0, "gop": 50},
    "x.ogv": {"codec": "libvpx", "b_frames": 0},
    "x.nut": {"b_frames": 3},
    "x.ivf": {"codec": "libvpx", "b_frames": 0},
    "x.mxf": {"fps": 25, "codec": "mpeg2video"},
    "x.gif": {"fps": 25},
}


@pytest.mark.parametrize("name", VIDEOS)
def test_the_frame_shown_at_a_time_is_found_exactly(tmp_path: Path, name: str) -> None:
    how = VIDEOS[name]
    written = write_animation if name.endswith(".gif") else write_video
    video = entry(written(tmp_path / name, 120, **({} if name.endswith(".gif") else how)))
    tick = float(how.get("tick", 1 / Fraction(how.get("fps", 24)).limit_denominator(1001)))
    stamps = how.get("stamps", range(120))
    shown_from = [(stamp - stamps[0]) * tick for stamp in stamps]
    facts = probe(video)
    last = shown_from[-1] - shown_from[-2]
    assert facts.duration == pytest.approx(shown_from[-1] + tick, abs=max(last, 0.05))
    frames = count_frames(facts.duration, 8)
    rng = random.Random(name)
    for _ in range(12):
        target = rng.randrange(frames)
        times = [rng.randrange(max(0, target - 10), target + 1) / 8 for _ in range(4)]
        found = [number_of(image) for image in read_frames(video, times, SMALL)]
        assert found == [bisect_right(shown_from, time + 5e-4) - 1 for time in times], times


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_frames_passed_over_change_no_pixel_of_those_read(tmp_path: Path, codec: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, 3 * WIDTH, 3), np.uint8)
    moving = [np.ascontiguousarray(noise[:, 2 * number :][:, :WIDTH]) for number in range(40)]
    video = entry(write_video(tmp_path / "a.mp4", moving, codec=codec, gop=40, b_frames=3))
    every = read_frames(video, [number / 24 for number in range(40)], (HEIGHT, WIDTH))
    for number in range(40):
        assert torch.equal(read_frames(video, [number / 24], (HEIGHT, WIDTH))[0], every[number])


def test_times_far_apart_and_in_any_order_are_found_in_one_go(tmp_path: Path) -> None:
    video = entry(write_video(tmp_path / "a.mp4", 200, gop=20))
    times = [8.0, 0.0, 4.01, 0.0, 7.99]
    assert [number_of(image) for image in read_frames(video, times, SMALL)] == [192, 0, 96, 0, 191]


def test_times_that_a_file_rounds_are_those_of_its_frames(tmp_path: Path) -> None:
    video = entry(write_video(tmp_path / "a.mkv", 120, fps=30))  # counts in milliseconds
    assert [number_of(image) for image in read_frames(video, [k / 30 for k in range(120)], SMALL)] == list(range(120))


def test_seconds_count_from_the_start_of_the_clip(tmp_path: Path) -> None:
    part = entry(write_video(tmp_path / "a.mp4", 100, fps=25, gop=10), start=1.0, end=3.5)
    assert probe(part).duration == pytest.approx(2.5)
    assert [number_of(image) for image in read_frames(part, [0, 0.4, 2.48], SMALL)] == [25, 35, 87]
    frames = list(iterate_frames(part))
    assert [time for time, _ in frames] == pytest.approx([k / 25 for k in range(62)] + [2.48])
    with pytest.raises(BrokenClip, match=r"^a.mp4#9-: the clip starts at 9 s, and the video ends at 4 s$"):
        probe(entry(part.path, start=9.0))


def test_all_frames_of_an_avi_come_with_their_times(tmp_path: Path) -> None:
    video = entry(write_video(tmp_path / "a.avi", 60, codec="mpeg4"))
    images = [
        (time, torch.from_numpy(frame.to_ndarray(format="gray"))[None] / 255) for time, frame in iterate_frames(video)
    ]
    assert [number_of(image) for _, image in images] == [round(time * 24) for time, _ in images] == list(range(60))


def test_the_last_frame_is_held_for_half_a_second_and_no_longer(tmp_path: Path) -> None:
    video = entry(write_video(tmp_path / "a.mp4", 48))
    assert number_of(read_frames(video, [2.4], SMALL)[0]) == 47
    with pytest.raises(BrokenClip, match=r"^a.mp4: the video ends at 2.000 s, before 2.600 s$"):
        read_frames(video, [2.6], SMALL)


def test_a_rest_shorter_than_a_frame_does_not_count() -> None:
    assert [count_frames(seconds, 8) for seconds in (0.1, 0.125, 0.99, 1.0, 1.9999999, 10.01)] == [0, 1, 7, 8, 16, 80]


# The image


def test_images_are_scaled_to_cover_and_cropped_without_aliasing(tmp_path: Path) -> None:
    fine = (np.indices((96, 192)).sum(axis=0)[..., None] % 2 * np.full(3, 255)).astype(np.uint8)
    fine[:, :24] = fine[:, -24:] = (255, 0, 0)  # cut off
    video = entry(write_video(tmp_path / "a.mp4", [fine] * 3, options={"crf": "1"}, b_frames=0))
    (image,) = read_frames(video, [0.0], (40, 60))
    assert image.shape == (3, 40, 60)
    assert (image[:, 4:-4, 4:-4] - 0.5).abs().max() < 0.12
    whole = read_video(video.path)[:1].float() / 255
    reference = torch.nn.functional.interpolate(whole, (40, 80), mode="bicubic", antialias=True)[0, :, :, 10:70]
    assert (image - reference).abs().mean() < 0.02


def test_colours_are_those_of_other_readers(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    video = entry(write_video(tmp_path / "a.mp4", [colours] * 3, options={"crf": "1"}))
    (image,) = read_frames(video, [0.0], colours.shape[:2])
    assert (image - read_video(video.path)[0] / 255).abs().mean() < 0.01


def test_turned_videos_and_oblong_pixels_are_read_as_they_are_shown(tmp_path: Path) -> None:
    corner = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    corner[: HEIGHT // 2, : WIDTH // 2] = 255  # above on the left
    upright = write_video(tmp_path / "upright.mp4", [corner] * 3)
    data = bytearray(upright.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    quarter_to_the_right = (0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    data[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in quarter_to_the_right)
    turned = entry(tmp_path / "turned.mp4")
    turned.path.write_bytes(data)
    assert (probe(turned).height, probe(turned).width) == (WIDTH, HEIGHT)
    image = read_frames(turned, [0.0], (WIDTH, HEIGHT))[0].mean(0)
    assert image[4, -4] > 0.9  # above on the right
    assert max(image[4, 4], image[-4, 4], image[-4, -4]) < 0.1

    oblong = entry(write_video(tmp_path / "oblong.mp4", [corner] * 3, aspect=Fraction(2)))
    assert (probe(oblong).height, probe(oblong).width) == (HEIGHT, 2 * WIDTH)
    assert read_frames(oblong, [0.0], (48, 128))[0, 0, 4, [60, 68]].round().tolist() == [1, 0]


# Broken files


def test_broken_files_are_named_with_the_reason(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", 100).read_bytes()
    streamed = write_video(tmp_path / "streamed.mp4", 100, container={"movflags": "faststart"}).read_bytes()
    no_video = "it is damaged, or no kind of video that can be read; those that can are MP4, MKV, AVI and the like"
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    broken = {
        "missing.mp4": (None, "there is no such file"),
        "folder.mp4": (None, "it is not an ordinary file"),
        "pipe.mp4": (None, "it is not an ordinary file"),
        "empty.mp4": (b"", no_video),
        "text.mp4": (b"no video at all\n" * 100, no_video),
        "noise.mkv": (random.Random(0).randbytes(5000), no_video),
        "list.mp4": (b"#EXTM3U\n#EXTINF:4,\nwhole.mp4\n#EXT-X-ENDLIST\n", no_video),
        "other.mp4": (b"ffconcat version 1.0\nfile whole.mp4\n", no_video),
        "cut.mp4": (whole[: len(whole) * 3 // 4], no_video),
        "cut2.mp4": (streamed[: len(streamed) * 3 // 4], r"the video ends at \d.\d+ s of 4.167 s: it was cut off"),
    }
    for name, (data, reason) in broken.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(BrokenClip, match=rf"^{name}: {reason}$"):
            probe(entry(tmp_path / name))
    with pytest.raises(BrokenClip, match=r"^cut2.mp4: the video ends at .* before 3.500 s$"):
        read_frames(entry(tmp_path / "cut2.mp4"), [3.5], SMALL)


def test_what_is_said_in_a_file_need_not_be_text(tmp_path: Path) -> None:
    data = write_video(tmp_path / "a.mp4", 24).read_bytes()
    assert b"Lavf" in data  # who wrote it
    (tmp_path / "a.mp4").write_bytes(data.replace(b"Lavf", b"\xff\xfe\xab\xff"))
    assert probe(entry(tmp_path / "a.mp4")).duration == pytest.approx(1)


def test_damage_of_any_kind_is_a_broken_clip_and_never_more(tmp_path: Path) -> None:
    rng, outcomes = random.Random(0), set()
    for ending, codec in ((".mp4", "libx264"), (".mkv", "libx264"), (".ts", "libx264"), (".avi", "mpeg4")):
        whole = write_video(tmp_path / f"a{ending}", 60, codec=codec).read_bytes()
        damaged = Entry(tmp_path / f"damaged{ending}", None, "a clip", label="damaged")
        for _ in range(25):
            data = bytearray(whole[: rng.choice((len(whole), rng.randrange(len(whole))))])
            for _ in range(rng.choice((0, 1, 3, 30))):
                place, length = rng.randrange(len(whole)), rng.choice((1, 4, 50))
                data[place : place + length] = rng.randbytes(length)
            damaged.path.write_bytes(data)
            outcomes |= {fault_of(probe, damaged), fault_of(read_frames, damaged, [1.0, 2.2], SMALL)}
    assert "" in outcomes
    assert (
        "damaged: it is damaged, or no kind of video that can be read; those that can are MP4, MKV, AVI and the like"
        in outcomes
    )
    assert all(fault == "" or (fault.startswith("damaged: ") and "\n" not in fault) for fault in outcomes)


def fault_of(read: Callable, *arguments: object) -> str:
    """What a broken clip's message is, or nothing."""
    try:
        read(*arguments)
    except BrokenClip as error:
        return str(error)
    return ""


# Sources


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Four seconds at 24 frames per second."""
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", 96).read_bytes()


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_a_folder_is_read_at_any_depth_in_a_lasting_order(tmp_path: Path) -> None:
    for name in (
        "b.mp4",
        "dogs/a.MOV",
        "dogs/c.webm",
        "dogs/none.mkv",
        "dogs/empty.mp4",
        "dogs/bad.mp4",
        "x.pdf",
        "._b.mp4",
    ):
        put(tmp_path / name, b"")
    put(tmp_path / "b.txt", "\ufeffa  dog\n runs ")
    put(tmp_path / "dogs/a.txt", "two dogs")
    put(tmp_path / "dogs/c.txt", "a caf\u00e9")
    put(tmp_path / "dogs/empty.txt", " \n")
    put(tmp_path / "dogs/bad.txt", b"\xff\xfe\xfa")
    os.symlink(tmp_path, tmp_path / "dogs" / "again")
    entries, problems = list_entries(tmp_path)
    assert [(entry.name, entry.caption) for entry in entries] == [
        ("b.mp4", "a dog runs"),
        ("dogs/a.MOV", "two dogs"),
        ("dogs/c.webm", "a caf\u00e9"),
    ]
    assert problems == [
        "dogs/bad.mp4: its caption bad.txt cannot be read (it is not UTF-8 text)",
        "dogs/empty.mp4: its caption empty.txt cannot be read (it is empty)",
        "dogs/none.mkv: there is no caption beside it (none.txt)",
    ]


def test_whatever_may_be_a_clip_in_a_folder_is_read_or_named(tmp_path: Path) -> None:
    read = ["a.gif", "b.MPG", "c.wmv", "d.flv", "e.3gp", "f.mts", "g.m2ts", "h.mpeg", "i.vob", "j.ogv"]
    named = ["a.webp.webp", "b.rmvb", "k.swf", "d.m2v", "l.xyz", "no ending", "m.jpg"]
    archives = ["a.zip", "clips.tar.gz"]
    beside = ["a.webp", "a.jpg", "a.json", "x.pdf", "e.srt"]
    for name in (*read, *named, *archives, *beside):
        put(tmp_path / "in" / name, b"")
    for name in (*read, "l.xyz", "no ending", "m.jpg"):
        put((tmp_path / "in" / name).with_suffix(".txt"), "a clip")
    entries, problems = list_entries(tmp_path)
    assert sorted(entry.name.removeprefix("in/") for entry in entries) == read
    why = dict(line.removeprefix("in/").split(": ") for line in problems)
    assert set(why) == {*named, *archives}
    assert {why[name] for name in archives} == {"it is an archive; unpack it, or make it a .tar"}
    assert why["l.xyz"] == "it is no kind of video that can be read; convert it to .mp4"

    write_video(tmp_path / "in/f.mts", 48)
    write_animation(tmp_path / "in/a.gif", 50)
    clips, skipped = open_videos(tmp_path, 8, (24, 32), 8, cache=None)
    assert [clips.name(clip) for clip in range(len(clips.index))] == ["in/a.gif", "in/f.mts"]
    assert {line.partition(":")[0] for line in skipped.lines} == {f"in/{name}" for name in why} | {
        f"in/{name}" for name in read if name not in ("a.gif", "f.mts")
    }


ROWS = [
    ("dogs/a.mp4", "a dog", None, None),
    ("dogs/a.mp4", "the dog's  end", 2.5, None),
    ("./dogs/a.mp4", "a, b", 2.5, 7),
    ("dogs/a.mp4", "another", 2.5, 7),
    ("b.mp4", "", None, None),
]


def as_csv(rows: list[tuple]) -> str:
    lines = [",".join("" if value is None else json.dumps(value) for value in row) for row in rows]
    return "\n".join(["path,caption,start,end,more", *lines])


def as_jsonl(rows: list[tuple]) -> str:
    return "\n\n".join(json.dumps(dict(zip(("path", "caption", "start", "end"), row, strict=True))) for row in rows)


@pytest.mark.parametrize(("ending", "written"), [("csv", as_csv), ("jsonl", as_jsonl)])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_list_is_read_with_paths_beside_it(tmp_path: Path, ending: str, written, mark: str) -> None:
    entries, problems = list_entries(put(tmp_path / f"clips.{ending}", mark + written(ROWS)))
    assert [entry.name for entry in entries] == [
        "dogs/a.mp4",
        "dogs/a.mp4#2.5-",
        "dogs/a.mp4#2.5-7",
        "dogs/a.mp4#2.5-7~2",
    ]
    assert {entry.path for entry in entries} == {tmp_path / "dogs" / "a.mp4"}
    assert entries[1].caption == "the dog's end"
    assert (entries[2].start, entries[2].end) == (2.5, 7.0)
    assert len(problems) == 1
    assert problems[0].startswith("b.mp4: its caption is empty")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "path,text\nx,y",
            r"a.csv has no column caption \(its first line: path, text\); needed are path, caption",
        ),
        ("a.csv", "", r"a.csv has no column path \(its first line: nothing\)"),
        ("a.csv", "path,caption,end\nx,y,1\nx,y,soon", r"a.csv line 3: end is 'soon', accepted are seconds from 0"),
        ("a.csv", "path,caption,start\nx,y,-1", r"a.csv line 2: start is '-1', accepted"),
        ("a.csv", "path,caption,start\nx,y,nan", r"a.csv line 2: start is 'nan', accepted"),
        (
            "a.csv",
            "path,caption,start,end\nx,y,3,2",
            r"a.csv line 2: end is 2, accepted are seconds after the start \(3\)",
        ),
        ("a.csv", "path,caption\n,y", r"a.csv line 2: the path is empty"),
        ("a.csv", b"path,caption\nx,\xff\xff", r"a.csv is not UTF-8 text; save it as UTF-8"),
        ("a.csv", "path,caption\n", r"no clips found in .*a.csv: looked for rows with a path and a caption"),
        ("a.csv", "path,caption\nx,", r"no clips found .* 1 not usable, the first: x: its caption is empty"),
        ("a.jsonl", '{"path": "x", "caption": "y"}\n{"path"', r"a.jsonl line 2 is not valid JSON"),
        ("a.jsonl", "[1]", r"a.jsonl line 1 is a list, expected an object: path, caption"),
        ("a.jsonl", '{"path": "x", "caption": 7}', r"a.jsonl line 1: caption is 7, expected text in quotes"),
        ("a.jsonl", '{"path": "x", "caption": "y", "start": true}', r"a.jsonl line 1: start is 'True', accepted"),
        ("a.xlsx", "x", r"cannot read .*a.xlsx as a source; accepted are a folder, a .csv, a .jsonl, and shards"),
        ("b/none.txt", "x", r"no clips found in .*: looked for videos \(.mp4, .*\) with a caption beside each"),
    ],
)
def test_what_is_no_source_is_refused_in_one_line(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    path = put(tmp_path / name, text)
    with pytest.raises(ValueError, match=message) as error:
        list_entries(path.parent if path.suffix == ".txt" else path)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"there is no source .*nowhere; give a folder"):
        list_entries(tmp_path / "nowhere")


WEBVID = """videoid,contentUrl,duration,page_dir,name
21179416,https://x/a.mp4,PT00H00M11S,006001_006050,Aerial shot winter forest
1,https://x/b.mp4,PT00H00M09S,000001_000050,"A dog, running"
"""


@pytest.mark.parametrize(
    ("there", "name"),
    [
        ("006001_006050/21179416.mp4", "006001_006050/21179416.mp4"),
        ("videos/000001_000050/1.mp4", "videos/000001_000050/1.mp4"),
        ("21179416.mp4", "21179416.mp4"),
        ("videos/1.mp4", "videos/1.mp4"),
        ("elsewhere.mp4", "006001_006050/21179416.mp4"),
    ],
)
def test_webvids_own_lists_are_read_wherever_the_videos_lie(tmp_path: Path, there: str, name: str) -> None:
    put(tmp_path / there, b"")
    entries, problems = list_entries(put(tmp_path / "results_10M_train.csv", WEBVID))
    assert [entry.caption for entry in entries] == ["Aerial shot winter forest", "A dog, running"]
    assert name in [entry.name for entry in entries]
    assert not problems
    row = {"videoid": 1, "page_dir": "000001_000050", "name": "A dog, running"}
    assert written_list(tmp_path, json.dumps(row), "jsonl")[0][1] == "A dog, running"
    assert list_entries(put(tmp_path / "b.csv", "videoid,name\n7,a dog"))[0][0].path.name == "7.mp4"


def written_list(folder: Path, text: str, ending: str = "csv") -> list[tuple[str, str]]:
    return [(entry.name, entry.caption) for entry in list_entries(put(folder / f"a.{ending}", text))[0]]


def test_what_a_hand_wrote_into_a_list_is_read_whole(tmp_path: Path) -> None:
    header = "path,caption,note\n"
    assert written_list(tmp_path, header + '0.mp4, "a dog, running", x\n\n1.mp4,a 5" screen') == [
        ("0.mp4", "a dog, running"),
        ("1.mp4", 'a 5" screen'),
    ]
    assert written_list(tmp_path, header + '0.mp4,"one line\nand a ""second"", longer",x,,\n') == [
        ("0.mp4", 'one line and a "second", longer')
    ]
    assert written_list(tmp_path, '{" Path": "0.mp4", "Caption": "a", "more": {"path": 1, "path": 2}}', "jsonl") == [
        ("0.mp4", "a")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,caption\n0.mp4,a dog, running, fast\n1.mp4,b", r"line 2 has 4 cells, and the first line 2; put quotes"),
        ("caption,path\nb,1.mp4\na dog, running,0.mp4", r"line 3 has 3 cells, and the first line 2; put quotes"),
        ('path,caption\n0.mp4,a\n\n1.mp4,"a dog\n2.mp4,b\n', r"line 4: a quote is opened and not closed"),
        ('path,caption\n0.mp4,"a dog\n1.mp4,b\n2.mp4,c"\n', r"line 2: a quote is opened .* takes in the row '1.mp4,b'"),
        ('caption,path\n"a dog,0.mp4\nb,1.mp4\nc"\n', r"line 2: a quote is opened .* takes in the row 'b,1.mp4'"),
        (
            'videoid,name,page_dir\n1,"a dog,x\n2,b,x\n3,c",x\n',
            r"line 2: a quote .* takes in the row '2,b,x'",
        ),
        ('path,caption\n0.mp4,"a dog\n1.mp4,"b"\n', r"line 2: text or a space stands after a closing quote"),
        ('path,caption\n0.mp4,"a sign that says "stop", red"', r"line 2: text or a space stands after a closing quote"),
        (
            'path,caption\n0.mp4,"' + "a dog\n" * 30000,
            r"line 2: a cell has more than \d+ characters; is a quote opened",
        ),
        ("path,caption,Caption\n0.mp4,a,b", r"has 2 columns caption; keep one of them"),
        ("path;caption\n0.mp4;a", r"needed are path, caption; separate its cells by commas, not by ';'"),
        (
            "file_name,caption\n0.mp4,a",
            r"no column path \(its first line: file_name, caption\).*; rename its file_name",
        ),
        ("path,prompt\n0.mp4,a", r"no column caption .*; rename its prompt to caption"),
    ],
)
def test_a_csv_that_would_lose_words_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        written_list(tmp_path, text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"video_path": "0.mp4", "caption": "a"}',
            r"line 1 has no path \(it has: video_path, caption\).*; rename its",
        ),
        (
            '{"path": "0.mp4", "caption": "a"}\n{"path": "1.mp4", "text": "b"}',
            r"line 2 has no caption .*rename its text",
        ),
        ('\n{"path": "0.mp4", "caption": "a \\ud83d"}', r"line 2: caption has half a character \(\\ud83d\); write the"),
        ('{"path": "\\ud83d.mp4", "caption": "a"}', r"line 1: path has half a character \(\\ud83d\)"),
        ('{"caption": "a"}', r"line 1 has no path \(it has: caption\); needed are path, caption$"),
        ('{"path": "0.mp4", "caption": "a", "caption": "b"}', r"line 1 has caption 2 times; keep one of them"),
    ],
)
def test_a_jsonl_that_would_lose_words_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        written_list(tmp_path, text, "jsonl")


def test_shards_are_read_by_pattern_folder_and_url(
    tmp_path: Path, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {
        "x/clip7.mp4": video,
        "x/clip7.txt": b"a dog",
        "clip8.json": b'{"caption": "a cat"}',
        "clip8.seg.mp4": video,
    }
    whole = write_shard(tmp_path / "in/s-0.tar", first).read_bytes()
    write_shard(tmp_path / "in/s-1.tar", {"a.mp4": video, "b.webm": b"", "b.json": b"[]", "c.txt": b"no video"})
    names = ["s-0.tar/x/clip7.mp4", "s-0.tar/clip8.seg.mp4"]
    problems = [
        "s-1.tar/a.mp4: its caption cannot be read (there is neither .txt nor .json beside it)",
        "s-1.tar/b.webm: its caption cannot be read (there is no text under caption)",
    ]
    shards = f"{tmp_path}/in/s-{{0..1}}.tar"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    sources = [
        tmp_path / "in",
        shards,
        f"file:{shards}",
        f"pipe:cat {shards}",
        f"{tmp_path}/in/s-0.tar::{tmp_path}/in/s-1.tar",
    ]
    for source in sources:
        for _ in range(2):  # found, and then found in the cache
            entries, found = list_entries(source, tmp_path / "cache")
            assert [entry.name for entry in entries] == names
            assert [entry.caption for entry in entries] == ["a dog", "a cat"]
            assert found == problems
        assert number_of(read_frames(entries[1], [1.0], SMALL)[0]) == 24
        assert probe(entries[1]).duration == pytest.approx(4)
    list_entries(f"pipe:cat {tmp_path}/in/s-0.tar")
    assert len(list((tmp_path / "home/artv/fetched").glob("*s-0.tar"))) == 1

    put(tmp_path / "in/s-1.tar", whole[: whole.rindex(video) + 100])
    put(tmp_path / "in/s-2.tar", b"no tar" * 1000)
    entries, found = list_entries(f"{tmp_path}/in/s-{{0..3}}.tar", tmp_path / "cache")
    assert [entry.name for entry in entries] == [*names, "s-1.tar/x/clip7.mp4"]
    assert [line.partition(":")[0] for line in found] == ["s-1.tar", "s-1.tar/clip8.seg.mp4", "s-2.tar", "s-3.tar"]
    with pytest.raises(
        ValueError, match=r"no clips found in pipe:.*; 1 not usable, the first: .*cannot fetch pipe:false"
    ):
        list_entries("pipe:false /x/y.tar", tmp_path / "cache")


def test_a_shard_that_ends_early_or_is_damaged_is_named(tmp_path: Path) -> None:
    members = {f"{number}{ending}": b"x" * 700 for number in range(4) for ending in (".mp4", ".txt")}
    data = write_shard(tmp_path / "whole.tar", members).read_bytes()
    assert len(list_entries(tmp_path / "whole.tar")[0]) == 4
    assert list_entries(tmp_path / "whole.tar")[1] == []
    header = data.index(b"2.mp4")
    end = len(data.rstrip(b"\0")) // 512 * 512 + 512
    damaged = [data[:header], data[: header + 100], data[: header + 20] + b"?" + data[header + 21 :]]
    damaged += [data[:header] + bytes(512) + data[header + 512 :], data[:end]]
    for number, content in enumerate(damaged):
        path = put(tmp_path / "damaged.tar", content)
        entries, problems = list_entries(path, tmp_path / f"cache-{number}")
        assert [entry.member for entry in entries] == [f"{one}.mp4" for one in range(4 if content == data[:end] else 2)]
        assert problems == ["damaged.tar: the shard ends early; what comes before is used"]


def indexed(folder: Path, members: list[tuple[str, bytes]], links: dict[str, str] | None = None) -> tuple[dict, list]:
    """{member: caption} and problems of one shard, whose members may repeat a name."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "s.tar", "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE, target
            tar.addfile(member)
    entries, problems = list_entries(folder / "s.tar")
    return {entry.name.partition("/")[2]: entry.caption for entry in entries}, problems


def test_names_in_a_shard_may_hold_dots(tmp_path: Path) -> None:
    parts = ["v1.0/ep1.00-05", "v1.0/ep1.05-10", "v1.0/ep1.10.5-15", "plain"]
    members = [(f"{part}{ending}", part.encode()) for part in parts for ending in (".mp4", ".txt")]
    told = {f"{part}.mp4": part for part in parts}
    assert indexed(tmp_path / "pairs", members) == (told, [])
    assert indexed(tmp_path / "upper", [(name.upper(), data) for name, data in members])[0] == {
        name.upper(): caption for name, caption in told.items()
    }
    apart = sorted(members, key=lambda member: member[0].endswith(".txt"))
    assert indexed(tmp_path / "videos-first", apart) == (told, [])
    assert indexed(tmp_path / "captions-first", apart[::-1]) == (dict(reversed(told.items())), [])


def test_every_video_of_a_shard_is_a_clip_or_is_named(tmp_path: Path) -> None:
    shared = [("0.left.mp4", b""), ("0.right.mp4", b""), ("0.txt", b"a dog"), ("0.right.txt", b"its other side")]
    assert indexed(tmp_path / "shared", shared) == ({"0.left.mp4": "a dog", "0.right.mp4": "its other side"}, [])
    two = [("0.mp4", b""), ("0.webm", b""), ("0.txt", b"a dog"), ("0.b.mp4", b"")]
    clips, problems = indexed(tmp_path / "two", two)
    assert clips == {"0.mp4": "a dog", "0.webm": "a dog"}
    assert problems == ["s.tar/0.b.mp4: its caption cannot be read (there is neither .txt nor .json beside it)"]
    again = [("0.mp4", b""), ("0.txt", b"a"), ("1.mp4", b""), ("1.txt", b"b"), ("0.mp4", b"2"), ("0.txt", b"c")]
    assert indexed(tmp_path / "joined", again) == ({"0.mp4": "a", "1.mp4": "b", "0.mp4#~2": "c"}, [])
    lacking = [("0.mp4", b""), ("1.mp4", b""), ("1.txt", b"b"), ("0.mp4", b"2"), ("0.txt", b"c")]
    assert len(indexed(tmp_path / "no-neighbour", lacking)[1]) == 1  # the other part's caption is not its own
    odd = [("a.xyz", b""), ("a.txt", b"a"), ("b.1.xyz", b""), ("b.1.txt", b"b"), ("b.2.mp4", b""), ("b.2.txt", b"c")]
    odd += [("d.mp4", b""), ("d.jpg", b""), ("d.json", b'{"prompt": "d"}'), ("e.mp4", b""), ("e.cap", b"e")]
    odd += [(".h.mp4", b""), ("._b.mp4", b"")]
    odd += [("g.mp4", b""), ("g.en.txt", b"g"), ("g.asr.json", b"g")]
    clips, problems = indexed(tmp_path / "odd", odd, {"l.mp4": "b.2.mp4"})
    assert clips == {"b.2.mp4": "c"}
    assert sorted(line.removeprefix("s.tar/").replace(": ", "|", 1) for line in problems) == [
        ".h.mp4|its name begins with a dot; such files are passed over",
        "a.xyz|it is no kind of video that can be read; convert it to .mp4",
        "b.1.xyz|it is no kind of video that can be read; convert it to .mp4",
        "d.mp4|its caption cannot be read (there is no text under caption; rename its prompt to caption)",
        "e.mp4|its caption cannot be read (there is neither .txt nor .json beside it, only .cap)",
        "g.mp4|its caption cannot be read (it must be called g.txt or .json; there is g.en.txt, g.asr.json)",
        "l.mp4|it is a link to b.2.mp4; put the file itself into the shard",
    ]


# Buckets


def test_buckets_have_about_the_area_and_are_made_of_multiples() -> None:
    assert make_buckets((64, 64), 8) == ((80, 48), (72, 56), (64, 64), (56, 72), (48, 80))
    for size, multiple in (((512, 512), 64), ((320, 512), 64), ((256, 256), 8)):
        buckets = make_buckets(size, multiple)
        assert size in buckets
        assert len(set(buckets)) == len(buckets)
        for height, width in buckets:
            assert height % multiple == width % multiple == 0
            assert 0.8 <= height * width / (size[0] * size[1]) <= 1
            assert max(height, width) <= 2 * min(height, width)
        assert [nearest_bucket(*bucket, buckets) for bucket in buckets] == list(range(len(buckets)))
    assert [nearest_bucket(*shape, make_buckets((64, 64), 8)) for shape in ((1080, 1920), (1000, 1001), (9, 1))] == [
        4,
        2,
        0,
    ]
    with pytest.raises(ValueError, match="60x64: both sides must be multiples of 8"):
        make_buckets((64, 60), 8)
    with pytest.raises(ValueError, match="128x32 is longer than 2 to 1"):
        make_buckets((32, 128), 8)


# Clips of raw videos


@pytest.fixture
def folder(tmp_path: Path, video: bytes) -> Path:
    """Two wide clips, two tall ones, and three of no use."""
    tall = [numbered_frame(number, 64, 48) for number in range(30)]
    for name in ("a", "d"):
        put(tmp_path / f"in/{name}.mp4", video)
    for name in ("b", "e"):
        write_video(tmp_path / f"in/{name}.mkv", tall)
    put(tmp_path / "in/broken.mp4", video[:2000])
    put(tmp_path / "in/silent.mp4", video)
    write_video(tmp_path / "in/short.mp4", 6)
    for name in ("a", "b", "d", "e", "broken", "short"):
        put(tmp_path / f"in/{name}.txt", f"clip {name}")
    return tmp_path / "in"


def test_videos_are_looked_at_once_and_given_at_their_bucket(folder: Path, tmp_path: Path) -> None:
    clips, skipped = open_videos(folder, 8, (64, 64), 8, cache=tmp_path / "cache", workers=2)
    assert [clips.name(clip) for clip in range(4)] == ["a.mp4", "b.mkv", "d.mp4", "e.mkv"]
    assert clips.index.num_frames.tolist() == [32, 10, 32, 10]
    assert [clips.index.buckets[bucket] for bucket in clips.index.bucket] == [(56, 72), (72, 56)] * 2
    assert len(set(clips.index.group)) == 4
    assert skipped.reasons == {"broken": 1, "too short": 1, "without caption or unreadable": 1}
    assert skipped.summary().startswith("3 clips left out (1 broken, 1 too short, 1 without caption or unreadable): ")
    skipped.write(tmp_path / "skipped.txt")
    assert "short.mp4: 2 frames at 8 per second, needed are 3" in (tmp_path / "skipped.txt").read_text().splitlines()

    sent = pickle.loads(pickle.dumps(clips))
    images = sent.frames(2, [31, 0, 31])
    assert images.shape == (3, 3, 56, 72)
    assert [number_of(image) for image in images] == [93, 0, 93]
    assert (sent.caption(3), sent.entry(3), sent.context(3)) == ("clip e", clips.entry(3), None)
    assert clips.frames(1, [4]).shape == (1, 3, 72, 56)


def test_a_second_start_reads_no_video_that_has_not_changed(folder: Path, tmp_path: Path) -> None:
    def start() -> tuple[list[str], dict[str, int]]:
        clips, skipped = open_videos(folder, 8, (64, 64), 8, cache=tmp_path / "cache", bucketed=False, workers=2)
        assert clips.index.buckets == ((64, 64),)
        return [clips.name(clip) for clip in range(len(clips.index))], skipped.reasons

    before = start()
    path, status = folder / "a.mp4", (folder / "a.mp4").stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert start() == before
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    names, reasons = start()
    assert (names, reasons["broken"]) == (["b.mkv", "d.mp4", "e.mkv"], 2)
    for damage in (b"damaged", b""):
        next((tmp_path / "cache").glob("*.npz")).write_bytes(damage)
        assert start() == (names, reasons)
    with pytest.raises(ValueError, match=r"no clip of .* can be used; 7 clips left out"):
        open_videos(folder, 8, (64, 64), 8, cache=None, min_frames=1000)


class OnDrive:
    """Opens videos, but those called `name` only with an error while the drive has a fault."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.fault: int | None = None
        self._open, self._name = av.open, name
        monkeypatch.setattr(av, "open", self)

    def __call__(self, file: str, *given: Any, **options: Any) -> Any:
        if self.fault and self._name in file:
            raise OSError(self.fault, os.strerror(self.fault))
        return self._open(file, *given, **options)


@pytest.mark.parametrize(("fault", "passes"), [(errno.EIO, True), (errno.EMFILE, True), (errno.EINVAL, False)])
def test_an_error_that_may_pass_is_no_fact_about_a_video(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int, passes: bool
) -> None:
    drive = OnDrive(monkeypatch, "a.mp4")

    def broken() -> int:
        return open_videos(folder, 8, (64, 64), 8, cache=tmp_path / "cache", workers=1)[1].reasons["broken"]

    drive.fault = fault
    assert broken() == 2
    drive.fault = None
    assert broken() == (1 if passes else 2)


class Interrupted:
    """An open video that gives one packet after each seek, and then an error of the drive."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def __enter__(self) -> "Interrupted":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def demux(self, stream: Any) -> Iterator[Any]:
        yield from islice(self._container.demux(stream), 1)
        raise av.error.OSError(errno.EIO, "Input/output error")


def test_a_video_that_a_drive_gives_in_part_is_not_known_as_cut_off(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = av.open

    def in_part(file: str, **given: Any) -> Any:
        return Interrupted(opened(file, **given)) if "a.mp4" in file else opened(file, **given)

    def broken() -> int:
        return open_videos(folder, 8, (64, 64), 8, cache=tmp_path / "cache", workers=1)[1].reasons["broken"]

    with monkeypatch.context() as patch:
        patch.setattr(av, "open", in_part)
        with pytest.raises(BrokenClip, match=r"the video ends at .*: it was cut off"):
            probe(entry(folder / "a.mp4"))
        assert broken() == 2
    assert broken() == 1


def test_an_error_that_may_pass_is_no_fact_about_a_shard(
    tmp_path: Path, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(tmp_path / "in/s-0.tar", {"a.mp4": video, "a.txt": b"a dog"})
    write_shard(tmp_path / "in/s-1.tar", {"b.mp4": video, "b.txt": b"a cat"})
    read = shards._read_caption

    def failing(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
        if member.name == "a.txt":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(tar, member)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "_read_caption", failing)
        entries, problems = list_entries(tmp_path / "in", tmp_path / "cache")
        assert [one.member for one in entries] == ["b.mp4"]
        assert problems == ["s-0.tar: it cannot be read as a shard (Input/output error)"]
    assert [one.member for one in list_entries(tmp_path / "in", tmp_path / "cache")[0]] == ["a.mp4", "b.mp4"]


# The order


def index_of(buckets: np.ndarray, groups: np.ndarray) -> ClipIndex:
    return ClipIndex(np.full(len(buckets), 20, np.int32), buckets, groups, ((64, 64),) * (int(buckets.max()) + 1))


def batches_of(order: ClipOrder, count: int) -> np.ndarray:
    return np.stack([order.batch(step) for step in range(count)])


def test_every_clip_is_shown_equally_often_in_batches_of_one_bucket() -> None:
    index = index_of(np.arange(1000) % 3, np.arange(1000) // 10)
    used = np.arange(5, 1000)
    order = ClipOrder(index, used, 8, seed=3)
    batches = batches_of(order, 250)
    assert all(len(set(index.bucket[batch])) == 1 for batch in batches)
    for bucket in range(3):
        shown = batches[index.bucket[batches[:, 0]] == bucket].flatten()
        clips = used[index.bucket[used] == bucket]
        for start in range(0, len(shown), len(clips)):
            one_order = shown[start : start + len(clips)]
            assert len(set(one_order)) == len(one_order)
        assert (shown[:300] != shown[len(clips) :][:300]).mean() > 0.9
    first, second = index.bucket[batches[:, 0]].reshape(2, 125)
    assert (first != second).any()
    again = pickle.loads(pickle.dumps(order))
    for step in (130, 3, 249, 0):
        assert again.batch(step).tolist() == batches[step].tolist()
        assert again.batch(step).tolist() != ClipOrder(index, used, 8, seed=4).batch(step).tolist()
    assert ClipOrder(index, np.array([7, 1]), 5, seed=0).batch(0).size == 5
    with pytest.raises(ValueError, match="there are no clips to train on"):
        ClipOrder(index, np.array([], int), 8, seed=0)


@pytest.mark.parametrize("batch_size", [1, 32, 640])
def test_a_rare_size_is_trained_on_as_often_as_its_clips_are(batch_size: int) -> None:
    rare = np.where(np.arange(300) < 290, 0, np.arange(300) % 5 + 1)
    index = index_of(rare, np.arange(300))
    order = ClipOrder(index, np.arange(300), batch_size, seed=1)
    steps = 1000
    batches = batches_of(order, steps)
    assert all(len(set(index.bucket[batch])) == 1 for batch in batches)
    for share in (0.1, 1):  # from early on
        part = batches[: round(share * steps)]
        counts = np.bincount(index.bucket[part[:, 0]], minlength=6)
        expected = len(part) * np.bincount(rare) / 300
        assert np.abs(counts - expected).max() <= max(2, 300 / batch_size)
    shown = np.bincount(batches.flat, minlength=300)
    assert shown.min() > 0.7 * shown.mean()
    assert shown.max() < 1.3 * shown.mean()
    far = order.batch(10**9)
    assert far.tolist() == ClipOrder(index, np.arange(300), batch_size, seed=1).batch(10**9).tolist()


def test_clips_of_a_shard_are_read_near_one_another_and_yet_mixed() -> None:
    index = index_of(np.zeros(2000, int), np.arange(2000) // 20)
    order = ClipOrder(index, np.arange(2000), 10, seed=0, window=4)
    for step in range(0, 200, 8):  # eight batches are four shards
        groups = [index.group[order.batch(step + more)] for more in range(8)]
        assert len(np.unique(groups)) == 4
        assert len(np.unique(groups[0])) > 1


class Named:
    """A source that knows names only."""

    def __init__(self, names: list[str]) -> None:
        self.names, self.index = names, index_of(np.zeros(len(names), int), np.arange(len(names)))

    def name(self, clip: int) -> str:
        return self.names[clip]


def test_held_out_clips_stay_so_when_others_come() -> None:
    few = Named([f"{number}.mp4" for number in range(1000)])
    many = Named(["new/first.mp4", *few.names, *(f"new/{number}.mp4" for number in range(100))])
    train, held = hold_out(few, 100, seed=0)
    assert sorted([*train, *held]) == list(range(1000))
    assert len(held) == 100
    names = {few.name(clip) for clip in held}
    assert len(names & {many.name(clip) for clip in hold_out(many, 100, seed=0)[1]}) >= 80
    assert len(names & {few.name(clip) for clip in hold_out(few, 100, seed=1)[1]}) < 30
    parts = Named([f"{number // 5}.mp4#{number}-" for number in range(100)])
    assert len({parts.name(clip).partition("#")[0] for clip in hold_out(parts, 20, seed=0)[1]}) == 4
    assert [len(ids) for ids in hold_out(few, 0, seed=0)] == [1000, 0]
    with pytest.raises(ValueError, match=r"data.held_out is 1000, and .* 1000 clips; accepted are 0 to 999, or -1"):
        hold_out(few, 1000, seed=0)


def test_as_many_clips_are_held_out_as_fit_their_number() -> None:
    assert [fitting_held_out(total) for total in (1, 3, 4, 8, 31, 32, 10**7)] == [0, 0, 1, 2, 7, 8, 8]
    for total in range(1, 40):
        assert len(hold_out(Named([f"{number}.mp4" for number in range(total)]), fitting_held_out(total), 0)[0]) > 0


def test_a_clip_that_breaks_is_replaced_by_one_that_fits(folder: Path) -> None:
    clips, _ = open_videos(folder, 8, (64, 64), 8, cache=None)
    reader, count = RepairedClips(clips, np.arange(4)), BrokenCount()
    whole = reader.read(0, [1, 2])
    assert (whole.clip, whole.caption, whole.broken) == (0, "clip a", {})
    (folder / "a.mp4").write_bytes(b"gone")
    for _ in range(2):
        other = reader.read(0, [1, 2])
        assert (other.clip, other.caption, other.frames.shape) == (2, "clip d", whole.frames.shape)
        said = count.add(other.broken)
    assert (len(count), said) == (1, [])
    assert count.add({0: "", 3: "e.mkv: gone"}) == ["e.mkv: gone"]
    (folder / "d.mp4").unlink()
    with pytest.raises(
        BrokenClip, match=r"^a.mp4: it is damaged.*; none of 1 clips tried in its place can be read either$"
    ):
        reader.read(0, [1, 2])


class Fragile(Named):
    """Clips of 10 to 19 frames in two buckets, of which some cannot be read."""

    def __init__(self, broken: set[int]) -> None:
        super().__init__([f"{number}.mp4" for number in range(60)])
        numbers = np.arange(60)
        self.index = ClipIndex(10 + numbers % 10, numbers // 2 % 2, numbers, ((64, 64), (48, 80)))
        self.broken, self.wordless = broken, set[int]()

    def caption(self, clip: int) -> str:
        if clip in self.wordless:
            raise BrokenClip(f"{clip}.mp4: its caption is damaged")
        return f"clip {clip}"

    def frames(self, clip: int, positions: list[int]) -> torch.Tensor:
        if clip in self.broken:
            raise BrokenClip(f"{clip}.mp4: gone")
        assert max(positions) < self.index.num_frames[clip]
        return torch.zeros(len(positions), 3, *self.index.buckets[self.index.bucket[clip]])

    def context(self, clip: int) -> None:
        return None


def test_substitutes_are_long_enough_of_the_same_bucket_and_spread_out() -> None:
    fragile = Fragile(set(range(30)))
    chosen = {clip: RepairedClips(fragile, np.arange(60)).read(clip, [15]) for clip in range(7, 30, 10)}
    for clip, reading in chosen.items():
        assert reading.clip >= 30
        assert reading.caption == f"clip {reading.clip}"
        assert fragile.index.num_frames[reading.clip] > 15
        assert fragile.index.bucket[reading.clip] == fragile.index.bucket[clip]
        assert set(reading.broken) <= fragile.broken
        assert RepairedClips(fragile, np.arange(59, -1, -1)).read(clip, [15]).clip == reading.clip
    everyone = [RepairedClips(fragile, np.arange(60)).read(clip, [0]).clip for clip in range(30)]
    assert len(set(everyone)) > 10
    fragile.broken = set(range(60))
    with pytest.raises(BrokenClip, match=r"^7.mp4: gone; none of \d+ clips tried in its place can be read either$"):
        RepairedClips(fragile, np.arange(60)).read(7, [15])


def test_a_clip_whose_caption_is_damaged_is_replaced() -> None:
    fragile = Fragile(set())
    fragile.wordless = {7}
    reading = RepairedClips(fragile, np.arange(60)).read(7, [5])
    assert reading.clip != 7
    assert reading.broken == {7: "7.mp4: its caption is damaged"}
