import hashlib
import json
import os
import pickle
import re
import shutil
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.cli import main
from artv_core.data.clips import BrokenClip
from artv_core.data.decode import read_frames
from artv_core.data.prepared import fingerprint, open_prepared
from artv_core.data.sources import Entry, list_entries
from artv_core.media import VideoWriter
from artv_core.prepare import encoding, scoring
from artv_core.prepare import run as running
from artv_core.prepare.motion import measure_motion
from artv_core.prepare.options import PrepareOptions, score_settings
from artv_core.prepare.unchanged import check_unchanged
from artv_core.synthetic.shapes import Clip, render, sample_clip
from artv_core.training.config import read_config
from artv_core.training.start import open_clips, starting_model
from tests.clip_files import clip_model

SECOND_SHOT = 24


def test_what_is_kept_and_why_the_rest_is_not(prepared: Path) -> None:
    dropped = [json.loads(line) for line in (prepared / "dropped.jsonl").read_text().splitlines()]
    assert {line["name"]: line["reason"] for line in dropped} == {
        "broken-0.mp4": "broken",
        "broken-1.mp4": "broken",
        "cut.mp4": "cut",
        "short.mp4": "too short",
        "still.mp4": "too little motion",
        "wordless.mp4": "no caption",
    }
    clips = open_prepared(prepared)
    names = [clips.name(clip) for clip in range(len(clips.index))]
    assert names == ["moving-0.mp4", "sub/moving-1.mp4", "moving-2.mp4"]  # by shape, then in order
    report = json.loads((prepared / "report.json").read_text())
    assert (report["considered"], report["kept"]) == (9, 3)
    assert report["dropped"] == dict(Counter(line["reason"] for line in dropped))
    assert (prepared / "report.png").read_bytes().startswith(b"\x89PNG")


def test_latents_and_embeddings_are_the_models_own(source: Path, prepared: Path) -> None:
    model = load_checkpoint(resolve_checkpoint("tiny"))
    assert model.vae is not None
    assert model.text is not None
    clips = open_prepared(prepared, vae=fingerprint(model.vae), text=fingerprint(model.text))
    entries = {entry.name: entry for entry in list_entries(source)[0]}
    assert clips.holds_latents
    assert clips.fps == 8
    for clip in range(len(clips.index)):
        entry = entries[clips.name(clip)]
        size = clips.index.buckets[clips.index.bucket[clip]]
        assert (clips.index.num_frames[clip], clips.caption(clip)) == (16, entry.caption)
        with torch.no_grad():
            latents = model.encode_images(read_frames(entry, [7 / 8, 2 / 8], size))
            context = model.encode_text([entry.caption])[0]
        assert (clips.frames(clip, [7, 2, 7]) - latents[[0, 1, 0]]).abs().max() < 4e-3  # float16
        assert (clips.context(clip) - context).abs().max() < 4e-3
    assert (clips.null_context - model.null_context).abs().max() < 4e-3
    assert len({clips.index.buckets[bucket] for bucket in clips.index.bucket}) == 2
    copied = pickle.loads(pickle.dumps(clips))
    assert torch.equal(copied.frames(1, [3]), clips.frames(1, [3]))
    with pytest.raises(ValueError, match=r"has frames 0 to 15, asked for \[16\]"):
        clips.frames(0, [16])


def test_a_name_that_is_not_utf_8_comes_back(source: Path, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    name = os.fsdecode(b"caf\xe9")
    for ending in ("mp4", "txt"):
        shutil.copy(source / f"moving-0.{ending}", tmp_path / f"clips/{name}.{ending}")
    assert main(_command(tmp_path / "clips", tmp_path / "out")) == 0
    clips = open_prepared(tmp_path / "out")
    assert clips.name(0) == clips.facts(0)["name"] == f"{name}.mp4"


def test_captions_that_are_cut_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "clips", tmp_path / "out"
    source.mkdir()
    long = "a red circle " + " ".join(f"word{number}" for number in range(240))
    for name, caption in (("long", long), ("short", "a red circle")):
        _write(source / f"{name}.mp4", _frames(_moving(0), (64, 64), 16), 24, caption)
    assert main(_command(source, output)) == 0
    said = capsys.readouterr().err
    assert "warning: 1 caption is longer than the" in said
    assert "long.mp4: " in said
    (line,) = (output / "captions-cut.txt").read_text().splitlines()
    assert re.fullmatch(r"long\.mp4: \d+ of 243 words are not read: word\d+ .* \.\.\.", line)
    assert json.loads((output / "report.json").read_text())["captions_cut"] == 1

    for data, file in ((output, output / "captions-cut.txt"), (source, tmp_path / "run/captions-cut.txt")):
        (tmp_path / "a.toml").write_text(f'name = "a"\npreset = "tiny"\nbase = "tiny"\n[data]\npath = "{data}"\n')
        config = read_config(tmp_path / "a.toml", ["data.bucket_multiple=0"])
        model = starting_model(config)
        open_clips(config, model, tmp_path / "run")
        assert f"{file}" in capsys.readouterr().out
        assert file.read_text() == f"{line}\n"

    manifest = json.loads((output / "dataset.json").read_text())
    assert manifest.pop("captions_cut") == 1
    (output / "dataset.json").write_text(json.dumps(manifest))  # as an earlier release wrote it
    config = replace(config, data=replace(config.data, path=str(output)))
    open_clips(config, model, tmp_path / "old")
    assert (tmp_path / "old/captions-cut.txt").read_text() == f"{line}\n"

    (source / "long.txt").write_text("a red circle")
    assert main(_command(source, output)) == 0
    assert "longer" not in capsys.readouterr().err
    assert not (output / "captions-cut.txt").exists()


def test_a_shard_is_a_webdataset(prepared: Path) -> None:
    import webdataset

    samples = list(webdataset.WebDataset(str(prepared / "shards/clips-000000.tar"), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == [f"clips-000000-{number:05d}" for number in range(len(samples))]
    for sample in samples:
        assert sample["npy"].dtype == sample["context.npy"].dtype == np.float16
        assert sample["json"]["frames"] == len(sample["npy"]) == 16
        assert 0.25 <= sample["json"]["motion"] <= 20


def test_motion_depends_little_on_the_frame_rate(tmp_path: Path) -> None:
    clip = _moving(0)
    scores = []
    for substeps in (3, 6):
        path = tmp_path / f"{substeps}.mp4"
        _write(path, _frames(clip, (64, 64), 16, substeps), 8 * substeps, "alike")
    for entry in list_entries(tmp_path)[0]:
        motion = measure_motion(entry, 2.0, 27.0)
        assert len(motion.shots) == 1
        scores.append(motion.score)
    assert max(scores) < 1.2 * min(scores)


def test_a_clip_is_split_at_its_cuts(source: Path, tmp_path: Path) -> None:
    options = ["--checkpoint", "tiny", "--shots", "split", "--max-frames", "6", "--min-frames", "6"]
    assert main(["prepare", str(source), str(tmp_path / "out"), *options]) == 0
    clips = open_prepared(tmp_path / "out")
    names = [clips.name(clip) for clip in range(len(clips.index))]
    assert [name for name in names if name.startswith("cut")] == ["cut.mp4#0-1", "cut.mp4#1-2"]
    second = names.index("cut.mp4#1-2")
    facts = clips.facts(second)
    assert (facts["start"], facts["end"], facts["frames"]) == (1.125, 1.875, 6)  # the middle of 8 frames
    entry = next(entry for entry in list_entries(source)[0] if entry.name == "cut.mp4")
    size = clips.index.buckets[clips.index.bucket[second]]
    model = load_checkpoint(resolve_checkpoint("tiny"))
    with torch.no_grad():
        latents = model.encode_images(read_frames(entry, [9 / 8], size))
    assert (clips.frames(second, [0]) - latents).abs().max() < 4e-3


def test_finished_pieces_are_kept_and_give_the_same_bytes(source: Path, prepared: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(prepared, output)
    (scores,) = output.glob("work/scores-*/*.jsonl")
    made = scores.stat().st_mtime_ns
    before = _digests(output)
    kept, cut_short, gone = sorted(output.glob("shards/*.tar"))
    os.truncate(cut_short, 1000)
    gone.unlink()
    (output / "dataset.json").unlink()
    (output / "shards/.0123456789abcdef.partial").write_bytes(b"of a killed worker")
    unchanged = kept.stat().st_mtime_ns
    assert main(_command(source, output)) == 0
    assert _digests(output) == before
    assert (scores.stat().st_mtime_ns, kept.stat().st_mtime_ns) == (made, unchanged)
    assert not list(output.glob("shards/.*"))


def _scored(folder: Path, numbers: range, name: str) -> None:
    """A worker's small file."""
    lines = [json.dumps({"key": 2**63 + 7 * number, "motion": number / 3}) for number in numbers]
    (folder / name).write_text("".join(f"{line}\n" for line in lines))


def test_small_files_of_scores_become_shards_with_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "SHARD", 100)
    for number in range(20):
        _scored(tmp_path, range(16 * number, 16 * number + 16), f"{number:016x}.jsonl")
    keys = np.array([2**63 + 7 * number for number in range(330)], np.uint64)

    def found() -> list[float]:
        store = scoring.ScoreStore(tmp_path)
        held = store.holds(keys)
        return [record["motion"] for record in store.records(keys[held])]

    before = found()  # of an earlier release, which left the small files
    assert before == [number / 3 for number in range(320)]
    scoring.gather_scores(tmp_path)
    shards = sorted(tmp_path.glob("*.jsonl"))
    assert [int(shard.name.split("-")[1]) for shard in shards] == [96, 112, 112]
    assert [shard.with_suffix(".npz") for shard in shards] == sorted(tmp_path.glob("*.npz"))
    assert found() == before

    made = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    scoring.gather_scores(tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == made

    _scored(tmp_path, range(320, 328), "more.jsonl")
    old = "it is damaged, or not an MP4, MOV, MKV, WebM, AVI or MPEG-TS file"  # of a WMV, which is read now
    (tmp_path / "wmv.jsonl").write_text(json.dumps({"key": 2**63 + 7 * 329, "broken": old, "motion": -1}) + "\n")
    assert found() == [*(number / 3 for number in range(328)), -1]
    scoring.gather_scores(tmp_path)
    _scored(tmp_path, range(320, 328), "again-more.jsonl")
    _scored(tmp_path, range(0, 16), "again.jsonl")  # as after a kill between writing a shard and removing its parts
    assert found() == [number / 3 for number in range(328)]
    scoring.gather_scores(tmp_path)
    assert found() == [number / 3 for number in range(328)]
    assert len(list(tmp_path.glob("*.jsonl"))) == 4  # one more, which is not full

    shard = next(tmp_path.glob("*.jsonl"))
    whole = shard.read_bytes()
    shard.write_bytes(b"x" * len(whole))
    assert scoring.ScoreStore(tmp_path).holds(keys).sum() == 328  # no record is read at a start
    shard.write_bytes(whole)
    for damage in (b"", b"damaged", whole):
        shard.with_suffix(".npz").write_bytes(damage)
        assert found() == [number / 3 for number in range(328)]
    np.savez(shard.with_suffix(".npz"), keys=keys[:3], starts=np.arange(3), size=1)  # of another file
    assert found() == [number / 3 for number in range(328)]


def test_scores_are_gathered_while_clips_are_scored(
    source: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "CHUNK", 1)
    monkeypatch.setattr(scoring, "SHARD", 3)
    monkeypatch.setattr(running, "GATHERED_TASKS", 2)
    assert main(_command(source, tmp_path / "out")) == 0
    files = list((tmp_path / "out/work").glob("scores-*/*.jsonl"))
    assert len(files) == 3
    assert all(path.name.startswith("shard-") for path in files)
    assert _digests(tmp_path / "out") == _digests(prepared)


def test_ray_gives_the_same_bytes(
    source: Path, prepared: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")  # or its processes wait for all others on a busy machine
    output = tmp_path / "out"
    shutil.copytree(prepared / "work", output / "work")
    assert main([*_command(source, output), "--engine", "ray", "--workers", "1"]) == 0
    assert _digests(output) == _digests(prepared)
    said = [line for line in capfd.readouterr().err.splitlines() if line]
    assert [line for line in said if not line.startswith(("artv: ", "encoding: "))] == []


def test_other_settings_replace_nothing_unasked(
    source: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    shutil.copytree(prepared, output)
    before = _digests(output)
    command = [*_command(source, output), "--motion-range", "0", "20"]
    assert main(command) == 2
    assert "motion_range [0.25, 20.0] -> [0.0, 20.0]" in capsys.readouterr().err
    assert main([*command, "--report-only"]) == 0
    assert json.loads((output / "preview.json").read_text())["kept"] == 4
    assert _digests(output) == before
    (scores,) = output.glob("work/scores-*/*.jsonl")
    made = scores.stat().st_mtime_ns
    assert main([*command, "--redo"]) == 0
    assert scores.stat().st_mtime_ns == made
    assert len(open_prepared(output).index) == 4


def test_a_clip_that_breaks_after_it_was_scored(source: Path, prepared: Path, tmp_path: Path) -> None:
    clips, output = tmp_path / "clips", tmp_path / "out"
    shutil.copytree(source, clips)  # with times, so that the scores fit
    shutil.copytree(prepared / "work", output / "work")
    path = clips / "moving-2.mp4"
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert main(_command(clips, output)) == 0
    dataset = open_prepared(output)
    assert [dataset.name(clip) for clip in range(len(dataset.index))] == ["moving-0.mp4", "sub/moving-1.mp4"]
    last = json.loads((output / "dropped.jsonl").read_text().splitlines()[-1])
    assert (last["name"], last["reason"]) == ("moving-2.mp4", "broken")


def test_finished_clips_stay_while_their_videos_cannot_be_reached(
    source: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips, output = tmp_path / "clips", tmp_path / "out"
    shutil.copytree(source, clips)  # with times, so that the scores fit
    shutil.copytree(prepared, output)
    before = _digests(output)
    (clips / "sub").rename(tmp_path / "sub")
    assert main(_command(clips, output)) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "has clips of 1 video that cannot be found or read in" in said
    assert "such as sub/moving-1.mp4; bring them back (is a drive missing?), or add --redo" in said
    for video in clips.glob("*.mp4"):
        video.write_bytes(b"")
    assert main(_command(clips, output)) == 2
    assert main([*_command(clips, output), "--redo"]) == 2
    assert "not one clip was kept" in capsys.readouterr().err.splitlines()[-1]
    assert len(open_prepared(output).index) == 3
    assert {name: digest for name, digest in _digests(output).items() if name.endswith("tar")} == {
        name: digest for name, digest in before.items() if name.endswith("tar")
    }
    shutil.copytree(tmp_path / "sub", clips / "sub")
    assert main([*_command(clips, output), "--redo"]) == 0
    assert len(open_prepared(output).index) == 1


@pytest.mark.parametrize("reader", ["probe", "read_frames"], ids=["while scoring", "while encoding"])
def test_a_clip_that_a_drive_does_not_give_is_tried_again(
    source: Path,
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reader: str,
) -> None:
    output = tmp_path / "out"
    if reader == "read_frames":
        shutil.copytree(prepared / "work", output / "work")
    where = scoring if reader == "probe" else encoding
    with monkeypatch.context() as patch:
        patch.setattr(where, reader, _failing(getattr(where, reader), "moving-2.mp4"))
        assert main(_command(source, output)) == 0
    assert len(open_prepared(output).index) == 2
    assert "for a reason that may pass; the same command tries them again" in capsys.readouterr().err
    last = [json.loads(line) for line in (output / "dropped.jsonl").read_text().splitlines()]
    assert {"name": "moving-2.mp4", "reason": "broken", "detail": "it cannot be read (input/output error)"} in last
    assert main(_command(source, output)) == 0
    assert "may pass" not in capsys.readouterr().err
    assert _digests(output) == _digests(prepared)


def _failing(read: Callable[..., Any], name: str) -> Callable[..., Any]:
    def failing(entry: Entry, *given: Any) -> Any:
        if entry.name == name:
            raise BrokenClip(f"{name}: it cannot be read (input/output error)", passing=True)
        return read(entry, *given)

    return failing


def test_scores_depend_on_the_precision_and_settings_are_compared_in_full(tmp_path: Path) -> None:
    def settings(**given: Any) -> dict[str, Any]:
        return score_settings(PrepareOptions("in", tmp_path, **given), given.get("clip_model"))

    assert settings(dtype="bfloat16") == settings()
    assert settings(clip_model="a", dtype="bfloat16") != settings(clip_model="a", dtype="float16")
    assert set(settings(clip_model="a")) == {"cut_threshold", "clip", "clip_frames"}, "scores of earlier releases"
    put = (
        {"encode": {"vae": {"fingerprint": "a" * 64, "scale": 1.0}}},
        {"encode": {"vae": {"fingerprint": "a" * 64, "scale": 2.0}}},
    )
    (tmp_path / "work").mkdir()
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/clips-000000.tar").touch()
    (tmp_path / "work/settings.json").write_text(json.dumps(put[0]))
    check_unchanged(PrepareOptions("in", tmp_path), put[0])
    with pytest.raises(ValueError, match=r"made with other settings \(vae scale 1.0 -> 2.0\)"):
        check_unchanged(PrepareOptions("in", tmp_path), put[1])


def test_clip_scores(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = ["prepare", str(source), str(output), "--report-only", *clip_model(tmp_path), "--clip-frames", "2"]
    assert main([*command, "--top", "2"]) == 0
    (scores,) = output.glob("work/scores-*/*.jsonl")
    records = [json.loads(line) for line in scores.read_text().splitlines()]
    best = sorted((record["clip"] for record in records if _fits(record)), reverse=True)
    report = json.loads((output / "preview.json").read_text())
    assert (report["kept"], report["dropped"]["not among the best"]) == (2, 1)
    assert report["least_clip_score_kept"] == best[1]
    assert all(-1 <= score <= 1 for score in best)
    assert main([*command, "--min-clip-score", str(best[0])]) == 0
    report = json.loads((output / "preview.json").read_text())
    assert (report["kept"], report["dropped"]["caption does not fit"]) == (1, 2)


def test_a_damaged_dataset_is_named(prepared: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(prepared, output)
    with pytest.raises(ValueError, match=r"prepared with another VAE .* than this model's \(0123\)"):
        open_prepared(output, vae="0123")
    clips = open_prepared(output)
    assert torch.isfinite(clips.frames(0, [15])).all()
    os.truncate(output / "shards/clips-000000.tar", 5000)
    with pytest.raises(BrokenClip, match=r"shard .*clips-000000.tar has 5000 bytes, expected"):
        clips.frames(0, [15])
    for damage in (b"nothing", b""):
        (output / "index.npz").write_bytes(damage)
        with pytest.raises(ValueError, match=r"cannot read .*index.npz"):
            open_prepared(output)
    (output / "dataset.json").unlink()
    with pytest.raises(ValueError, match="unfinished: run the same artv prepare again"):
        open_prepared(output)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say whose VAE and text encoder to use: --checkpoint FILE"),
        (["--preset", "sd21"], "--preset sd21 needs --base"),
        (["--checkpoint", "tiny", "--top", "5"], "--top needs CLIP scores: give --clip-model"),
        (["--checkpoint", "tiny", "--clip-model", "ViT-H-14"], "need each other; nothing is downloaded"),
        (["--checkpoint", "tiny", "--size", "60"], "--size is 60x60; both sides must be multiples of 8"),
        (["--checkpoint", "tiny", "--motion-range", "3", "2"], "--motion-range is 3 2; accepted are two numbers"),
        (["--checkpoint", "tiny", "--workers", "2", "--engine", "plain"], "--engine plain has one worker, not 2"),
        (["--checkpoint", "tiny", "--min-frames", "1000", "--max-frames", "0"], "not one clip was kept"),
        (["--checkpoint", "tiny", "--min-frames", "2"], "--min-frames is 2; accepted are 3 to 1000000"),
    ],
)
def test_errors_are_one_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    (tmp_path / "clips").mkdir()
    for ending in ("mp4", "txt"):
        shutil.copy(source / f"short.{ending}", tmp_path / "clips")
    assert main(["prepare", str(tmp_path / "clips"), str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_output_within_the_source(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", str(source), str(source / "out"), "--checkpoint", "tiny"]) == 2
    assert "is inside" in capsys.readouterr().err


def test_without_ray_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, name, None)  # as Python marks what cannot be imported
    assert main(["prepare", "x", str(tmp_path), "--checkpoint", "tiny", "--engine", "ray"]) == 2
    assert 'pip install ".[prepare]"; or use --engine plain' in capsys.readouterr().err


# What they work on


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine small videos: three that move, one each that stands still, is cut, is short, has no caption; two broken."""
    folder = tmp_path_factory.mktemp("clips")
    moving = [_moving(0), _moving(1), _moving(2)]
    for number, (clip, size) in enumerate(zip(moving, [(64, 64), (64, 64), (64, 96)], strict=True)):
        _write(
            folder / ("sub" if number == 1 else "") / f"moving-{number}.mp4", _frames(clip, size, 16), 24, clip.caption
        )
    dark, bright = replace(moving[0], background="black"), replace(moving[1], background="yellow")
    cut = torch.cat([_frames(dark, (64, 64), 16)[:SECOND_SHOT], _frames(bright, (64, 64), 16)[SECOND_SHOT:]])
    _write(folder / "cut.mp4", cut, 24, "two shots")
    _write(folder / "still.mp4", _frames(moving[0], (64, 64), 1, 1).repeat(48, 1, 1, 1), 24, "nothing moves")
    _write(folder / "short.mp4", _frames(moving[0], (64, 64), 4), 24, "too short")
    _write(folder / "wordless.mp4", _frames(moving[0], (64, 64), 2), 24)
    whole = (folder / "moving-0.mp4").read_bytes()
    for number, data in enumerate((whole[: len(whole) // 3], b"no video at all")):
        (folder / f"broken-{number}.mp4").write_bytes(data)
        (folder / f"broken-{number}.txt").write_text("broken")
    return folder


@pytest.fixture(scope="module")
def prepared(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("prepared")
    assert main(_command(source, output)) == 0
    return output


def _command(source: Path, output: Path) -> list[str]:
    return ["prepare", str(source), str(output), "--checkpoint", "tiny", "--shard-clips", "1"]


def _moving(index: int) -> Clip:
    return replace(sample_clip(0, index), motion="right", speed="slowly", size="large", color="red", background="green")


def _frames(clip: Clip, size: tuple[int, int], count: int, substeps: int = 3) -> torch.Tensor:
    """Of `count` / 8 seconds, `substeps` frames for each of the world's own."""
    assert clip.velocity is not None
    step = clip.velocity[0] * min(size) / size[1] / substeps
    between = [replace(clip, x=(clip.x + step * number) % 1) for number in range(substeps)]
    return render(between, count, *size).transpose(0, 1).flatten(0, 1)


def _write(path: Path, frames: torch.Tensor, fps: float, caption: str = "") -> None:
    path.parent.mkdir(exist_ok=True)
    with VideoWriter(path, fps) as video:
        for frame in frames:
            video.append(frame)
    if caption:
        path.with_suffix(".txt").write_text(caption)


def _fits(record: dict) -> bool:
    return "broken" not in record and record["duration"] > 1 and len(record["shots"]) == 1 and record["motion"] > 0.25


def _digests(output: Path) -> dict[str, str]:
    paths = [*output.glob("shards/*.tar"), output / "index.npz", output / "dropped.jsonl", output / "report.png"]
    assert all(tarfile.is_tarfile(path) for path in paths if path.suffix == ".tar")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
