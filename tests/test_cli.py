import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from artv_core import cli
from artv_core.checkpoint import load_checkpoint, save_checkpoint, shipped_checkpoint
from artv_core.commands import comfyui_server, demo, demo_clips, demo_comfyui
from artv_core.commands import generate as generate_command
from artv_core.commands.generate import generate_job
from artv_core.config import preset
from artv_core.media import read_image, read_video, writing
from artv_core.models.artv import ARTV
from artv_core.run import execute
from artv_core.run import job as jobs
from artv_core.run import pipeline as pipelines
from artv_core.run.drift import read_drift_csv
from artv_core.run.journal import Journal
from artv_core.run.journal_list import list_journals
from artv_core.run.recording import JOURNAL_FROM
from artv_core.synthetic.shapes import vocabulary
from tests.forked import COMMAND, COMMANDS, Fork, python_with
from tests.killed import killed
from tests.models import smallest

ROOT = Path(__file__).parent.parent
QUICK = ["--steps", "1", "--sampler", "euler", "--width", "32", "--height", "32", "--device", "cpu"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with a vocabulary: `tiny`, but with fewer layers."""
    model = smallest(vocabulary=vocabulary())
    path = tmp_path_factory.mktemp("checkpoint") / "untrained.safetensors"
    save_checkpoint(model, path)
    return path


@pytest.fixture(scope="module", autouse=True)
def _each_model_loaded_once() -> Iterator[None]:
    """Commands within this process share a model that is read from the same file in the same way."""
    models: dict[object, ARTV] = {}

    def load(path: Path, **how: object) -> ARTV:
        key = path, path.stat().st_mtime_ns, repr(how)
        return models[key] if key in models else models.setdefault(key, load_checkpoint(path, **how))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines, "load_checkpoint", load)
        yield


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(path)
    return path


def generate(checkpoint: Path, output: Path, *more: object, prompt: str | None = "a red circle") -> int:
    words = [] if prompt is None else [prompt]
    return cli.main(["generate", *words, "-o", str(output), "--checkpoint", str(checkpoint), *QUICK, *map(str, more)])


def job_of(checkpoint: Path, *arguments: object) -> jobs.Job:
    words = ["generate", "a fox", "-o", "out.mp4", *map(str, arguments)]
    return generate_job(cli.build_parser().parse_args(words), preset("tiny"))


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What went to stderr, which must be one line of ours."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"artv: [^\n]+\n", captured.err), captured.err
    return captured.err


# --- what a user gets -------------------------------------------------------------------------------------------------


def test_generate_writes_a_video_and_says_where(checkpoint, tmp_path, capsys):
    assert generate(checkpoint, tmp_path / "out.mp4", "--frames", 3, "--seed", 7) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'out.mp4'}\n"
    assert re.search(r"3/3 frames, +[\d.]+s/frame, 00:00 left", captured.err)
    assert "warning" not in captured.err
    assert read_video(tmp_path / "out.mp4").shape == (3, 3, 32, 32)
    assert os.listdir(tmp_path) == ["out.mp4"]
    with av.open(str(tmp_path / "out.mp4")) as container:
        comment = json.loads(container.metadata["comment"])
        assert container.streams.video[0].average_rate == preset("tiny").fps
    assert comment["prompts"] == [[0, "a red circle"]]
    assert (comment["seed"], comment["steps"], comment["sampler"]) == (7, 1, "euler")


def test_a_batch_gives_numbered_files(checkpoint, tmp_path, capsys):
    outputs = ["--mask-video", tmp_path / "mask.mp4", "--save-latents", tmp_path / "l.safetensors"]
    assert (
        generate(checkpoint, tmp_path / "out.mp4", "--frames", 2, "--batch", 2, "--fps", 12, "--redo", "1:50", *outputs)
        == 0
    )
    names = ["out-0.mp4", "out-1.mp4", "mask-0.mp4", "mask-1.mp4", "l.safetensors"]
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in names]
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    masks = read_video(tmp_path / "mask-1.mp4")
    assert masks.shape == (2, 3, 32, 32)
    assert masks[0].max() < 8
    assert masks[1].max() > 20
    with av.open(str(tmp_path / "out-1.mp4")) as container:
        comment = json.loads(container.metadata["comment"])
        assert (comment["seed"], comment["redo"]) == (1, [[1, 51]])
        assert container.streams.video[0].average_rate == 12


def test_an_image_is_frame_0(checkpoint, tmp_path, picture):
    latents = tmp_path / "l.safetensors"
    assert generate(checkpoint, tmp_path / "out.mp4", "--frames", 3, "--image", picture, "--save-latents", latents) == 0
    expected = load_checkpoint(checkpoint).encode_images(read_image(picture, 32, 32))
    torch.testing.assert_close(load_file(latents)["latents"][0], expected, rtol=1e-4, atol=1e-4)
    assert len(read_video(tmp_path / "out.mp4")) == 3


def test_going_on_from_saved_frames_is_never_having_stopped(checkpoint, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("0: a red circle\n3: a blue star\n")
    whole, part, rest = (tmp_path / f"{name}.safetensors" for name in ("whole", "part", "rest"))
    settings = ["--prompts", prompts, "--sampler", "euler_ancestral", "--steps", 2]

    def run(name: str, *more: object) -> None:
        assert generate(checkpoint, tmp_path / name, *settings, *more, prompt=None) == 0

    run("whole.mp4", "--frames", 6, "--seed", 3, "--save-latents", whole)
    run("part.mp4", "--frames", 2, "--seed", 3, "--save-latents", part)
    run("rest.mp4", "--frames", 6, "--continue-from", part, "--save-latents", rest)
    assert "will not match" not in capsys.readouterr().err
    assert torch.equal(load_file(whole)["latents"], load_file(rest)["latents"])
    assert torch.equal(read_video(tmp_path / "whole.mp4"), read_video(tmp_path / "rest.mp4"))
    run("other.mp4", "--frames", 6, "--continue-from", part, "--noise-level", 3)
    assert "will not match one continuous run: anchor_noise_level: 50 -> 3" in capsys.readouterr().err


def test_short_videos_are_journaled_when_asked(checkpoint, tmp_path, capsys):
    assert generate(checkpoint, tmp_path / "a.mp4", "--frames", 3) == 0
    assert not (tmp_path / "artv_journals").exists()
    for frames in (3, 5):
        assert generate(checkpoint, tmp_path / "b.mp4", "--frames", frames, "--journal", tmp_path / "j") == 0
    assert re.search(r"(^|[\r\n])artv: continuing from frame 3, [^\r\n]+\n", capsys.readouterr().err)
    assert generate(checkpoint, tmp_path / "c.mp4", "--frames", 5, "--journal", tmp_path / "j", "--start-over") == 0
    assert "continuing from" not in capsys.readouterr().err
    assert sorted(journal.num_frames for journal in list_journals(tmp_path / "j")) == [5, 5]
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "c.mp4").read_bytes()


def test_redo_makes_what_follows_with_another_seed(checkpoint, tmp_path, capsys):
    keep = ["--frames", 5, "--journal", tmp_path / "j"]
    latents = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    assert generate(checkpoint, tmp_path / "a.mp4", *keep, "--save-latents", latents[0]) == 0
    assert generate(checkpoint, tmp_path / "b.mp4", *keep, "--save-latents", latents[1], "--redo", "3:99") == 0
    assert "continuing from frame 3" in capsys.readouterr().err
    before, after = (load_file(path)["latents"] for path in latents)
    assert torch.equal(before[:3], after[:3])
    assert not torch.equal(before[3], after[3])


def test_a_journal_can_be_gone_on_from(checkpoint, tmp_path, capsys):
    assert generate(checkpoint, tmp_path / "a.mp4", "--frames", 3, "--journal", tmp_path / "j", "--seed", 9) == 0
    (journal,) = list_journals(tmp_path / "j")
    capsys.readouterr()
    assert generate(checkpoint, tmp_path / "b.mp4", "--frames", 5, "--continue-from", journal.path) == 0
    assert "warning" not in capsys.readouterr().err
    assert generate(checkpoint, tmp_path / "c.mp4", "--frames", 5, "--seed", 9) == 0
    assert torch.equal(read_video(tmp_path / "b.mp4"), read_video(tmp_path / "c.mp4"))


def test_drift_is_written_as_a_table_and_a_plot(checkpoint, tmp_path, capsys):
    csv = tmp_path / "drift.csv"
    assert generate(checkpoint, tmp_path / "out.mp4", "--frames", 4, "--drift", csv) == 0
    captured = capsys.readouterr()
    assert captured.out.split() == [str(tmp_path / name) for name in ("out.mp4", "drift.csv", "drift.png")]
    assert [reading.index for reading in read_drift_csv(csv)] == [0, 1, 2, 3]
    assert Image.open(tmp_path / "drift.png").width > 500
    assert re.search(r"frame +shift +spread +sharpness +motion", captured.err)


def test_journals_are_listed_and_removed_by_name(checkpoint, tmp_path, capsys):
    for seed in (1, 2):
        keep = ["--frames", 2, "--journal", tmp_path / "j", "--seed", seed]
        assert generate(checkpoint, tmp_path / "a.mp4", *keep) == 0
    names = [journal.path.name for journal in list_journals(tmp_path / "j")]
    capsys.readouterr()
    assert cli.main(["journals", str(tmp_path / "j")]) == 0
    listed = capsys.readouterr().out
    assert listed.startswith("2 journals, ")
    assert re.search(rf"{names[0]}  2 frames  .* kB  .*seed 2, prompt a red circle", listed)
    assert cli.main(["journals", str(tmp_path / "j"), "--remove", names[0]]) == 0
    assert names[0] not in capsys.readouterr().out
    assert [journal.path.name for journal in list_journals(tmp_path / "j")] == names[1:]


@pytest.mark.parametrize("name", ["none", "../j/none.artvj", "/etc/passwd", "notes.txt", "."])
def test_only_listed_journals_are_removed(tmp_path, capsys, name):
    (tmp_path / "notes.txt").write_text("precious")
    assert cli.main(["journals", str(tmp_path), "--remove", name]) == 2
    assert "there is no journal" in one_line(capsys)
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_upscaled_video(checkpoint, tmp_path):
    assert generate(checkpoint, tmp_path / "out.mp4", "--frames", 1, "--upscale", 3) == 0
    assert read_video(tmp_path / "out.mp4").shape == (1, 3, 96, 96)


def test_options_reach_the_job(checkpoint, picture, tmp_path):
    plain = job_of(checkpoint).options
    recommended = preset("tiny").sampling
    assert (plain.num_frames, plain.height, plain.width, plain.seed) == (16, 64, 64, 0)
    assert (plain.steps, plain.sampler, plain.eta) == (recommended.steps, recommended.sampler, recommended.eta)
    guidance = ["--cfg-references", 1.1, "--cfg-anchor", 1.2, "--cfg-text", 1.3, "--cfg-first", 1.4]
    job = job_of(checkpoint, *guidance, "--noise-level", 7, "--no-mask", "--negative", "a hare", "--anchor", "first")
    options = job.options
    assert (options.guidance_references, options.guidance_anchor, options.guidance_text) == (1.1, 1.2, 1.3)
    assert options.first_frame_guidance == 1.4
    assert (options.reference_noise_level, options.anchor_noise_level, options.use_mask) == (7, 7, False)
    assert (job.negative, job.anchor) == ("a hare", "first")
    assert job_of(checkpoint, "--cfg-text", "0: 3, 24: 6.5").options.guidance_text == ((0, 3.0), (24, 6.5))
    assert job_of(checkpoint, "--anchor-image", picture).anchor == "given"
    assert job_of(checkpoint, "--steps", 3, "--sampler", "ddim", "--seed", 2**64 - 1).options.steps == 3


@pytest.mark.parametrize(
    ("words", "warnings"),
    [
        ("--redo 50:1 --frames 10", ["the video ends before frame 50, so --redo 50:1 has no effect"]),
        ("--redo 5:1 --redo 10:2 --frames 10", ["the video ends before frame 10, so --redo 10:2 has no effect"]),
        ("--redo 50:1 --frames 0", []),
        (
            "--anchor none --return-to-anchor 0.2 --adain 0.5 --cfg-anchor 2 --no-mask",
            [f"{name} has no effect with --anchor none" for name in ("--adain", "--return-to-anchor", "--cfg-anchor")],
        ),
        ("--anchor none --return-to-anchor 0", []),
        (
            "--no-mask --return-to-anchor 0.2",
            ["--return-to-anchor has no effect with --no-mask, because it needs the copy mask"],
        ),
        ("--no-mask --adain 0.5", []),
        ("--negative a --cfg-first 1", ["--negative has no effect where guidance is 1; give --cfg-text, or"]),
        ("--negative a --image PICTURE", ["--negative has no effect"]),
        (
            "--image PICTURE --cfg-first 2 --first-frame-steps 8",
            [
                f"{name} has no effect, because the first frame is given"
                for name in ("--cfg-first", "--first-frame-steps")
            ],
        ),
        ("--negative a --keyframe 0=PICTURE", ["--negative has no effect"]),
        ("--negative a --frames 1 --cfg-first 1 --cfg-text 2 --cfg-anchor 2", ["--negative has no effect"]),
        ("--negative a --cfg-first 1 --anchor none --cfg-anchor 2", ["--cfg-anchor has", "--negative has no effect"]),
        ("--negative a", []),  # the checkpoint recommends guidance for the first frame
        ("--negative a --image PICTURE --cfg-text 2", []),
        ("--negative a --image PICTURE --cfg-references 2", []),
        ("--negative a --image PICTURE --cfg-anchor 2", []),
        ("--negative a --cfg-first 1 --frames 1 --cfg-anchor 2 --anchor-image PICTURE", []),
        ("--negative a --image PICTURE --cfg-text 0:1,4:2", []),
    ],
)
def test_options_without_effect_are_named(picture, capsys, words, warnings):
    job_of(picture, *words.replace("PICTURE", str(picture)).split())
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(warnings)
    for line, start in zip(said, warnings, strict=True):
        assert line.startswith(f"artv: warning: {start}")


def test_every_condition_changes_the_video(checkpoint, tmp_path, picture):
    base = ["--frames", 3, "--cfg-text", 2, "--cfg-first", 2]
    variants = {
        "plain": [],
        "negative": ["--negative", "a blue star"],
        "anchor": ["--anchor", "none"],
        "anchor image": ["--anchor-image", picture],
        "keyframe": ["--keyframe", f"1={picture}"],
        "noise": ["--noise-level", "300"],
        "mask": ["--no-mask"],
        "dtype": ["--dtype", "bfloat16"],
    }
    made = {}
    for name, arguments in variants.items():
        latents = tmp_path / f"{name}.safetensors"
        assert generate(checkpoint, tmp_path / "out.mp4", *base, *arguments, "--save-latents", latents) == 0
        made[name] = load_file(latents)["latents"].numpy().tobytes()
    assert len(set(made.values())) == len(variants)


def test_a_keyframe_is_that_frame_of_the_video(checkpoint, tmp_path, picture):
    made = []
    for arguments in (["--keyframe", f"2={picture}"], ["--image", picture]):
        latents = tmp_path / "made.safetensors"
        assert generate(checkpoint, tmp_path / "out.mp4", "--frames", 4, *arguments, "--save-latents", latents) == 0
        made.append(load_file(latents)["latents"])
    assert torch.equal(made[0][2], made[1][0])


def test_a_keyframe_counts_for_the_usual_length(checkpoint, picture):
    assert job_of(checkpoint, "--keyframe", f"40={picture}").options.num_frames == 56


def test_an_anchor_image_for_each_prompt(checkpoint, tmp_path, picture):
    other, prompts = tmp_path / "other.png", tmp_path / "prompts.txt"
    Image.new("RGB", (64, 64), (30, 60, 200)).save(other)
    prompts.write_text("0: a red circle\n2: a blue star\n", encoding="utf-8")
    made = []
    for images in ([picture], [picture, picture], [picture, other]):
        words = [word for image in images for word in ("--anchor-image", image)]
        latents = tmp_path / "made.safetensors"
        more = ["--prompts", prompts, "--frames", 4, *words, "--save-latents", latents]
        assert generate(checkpoint, tmp_path / "out.mp4", *more, prompt=None) == 0
        made.append(load_file(latents)["latents"])
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[1][:2], made[2][:2])
    assert not torch.equal(made[1][2], made[2][2])


def test_prompt_files_say_how_long_the_video_is(checkpoint, tmp_path, capsys):
    path = tmp_path / "prompts.txt"
    path.write_text("a\nb\nc")
    parser = cli.build_parser()
    job = generate_job(parser.parse_args(["generate", "-o", "x.mp4", "--prompts", str(path)]), preset("tiny"))
    assert list(job.prompts) == [(0, "a"), (16, "b"), (32, "c")]
    assert job.options.num_frames == 48
    words = ["generate", "-o", "x.mp4", "--prompts", str(path), "--frames", "16"]
    generate_job(parser.parse_args(words), preset("tiny"))
    assert "warning: the video ends before frame 16" in one_line(capsys)
    path.write_text("a\n16; b")
    generate_job(parser.parse_args(words), preset("tiny"))
    assert "line 2, column 1: '16; b' is read as words; to start a prompt at 16" in capsys.readouterr().err


def test_seconds_in_a_prompt_file_are_those_of_the_video(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("[0s-3s: a]\n[3s-6s: b]")
    words = ["generate", "-o", "x.mp4", "--prompts", str(path)]
    for more, start in (([], 24), (["--fps", "8"], 24), (["--fps", "4"], 12), (["--fps", "7.5"], 23)):
        job = generate_job(cli.build_parser().parse_args([*words, *more]), preset("tiny"))
        assert list(job.prompts) == [(0, "a"), (start, "b")]


def test_demo(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo_clips, "DEMO_FRAMES", 2)
    output = tmp_path / "new" / "demo"
    words = ["demo", "--no-comfyui", "--output", str(output), "--checkpoint", str(checkpoint), "--device", "cpu"]
    assert cli.main(words) == 0
    captured = capsys.readouterr()
    names = ["text-to-video.mp4", "image-to-video.mp4", "two-prompts.mp4", "contact-sheet.png"]
    assert captured.out.split() == [str(output / name) for name in names]
    assert sorted(os.listdir(output)) == sorted([*names, "image.png"])
    assert [read_video(output / name).shape for name in names[:3]] == [(count, 3, 512, 512) for count in (2, 2, 4)]
    assert Image.open(output / "contact-sheet.png").width > 500
    assert read_image(output / "image.png", 64, 64).std() > 0.1
    assert "warning" not in captured.err


def test_info(checkpoint, capsys):
    assert cli.main(["info", str(checkpoint)]) == 0
    text = capsys.readouterr().out
    for part in (
        "64x64 pixels",
        "noise UNet",
        "mask network",
        "text encoder",
        "together",
        "missing: nothing",
        "circle",
    ):
        assert part in text
    parameters = sum(parameter.numel() for parameter in load_checkpoint(checkpoint).state_dict().values())
    assert f"{parameters:,}" in text


def test_info_says_what_is_missing(tmp_path, capsys):
    save_checkpoint(ARTV(preset("tiny")), tmp_path / "a.safetensors", parts=["unet", "branches"])
    assert cli.main(["info", str(tmp_path / "a.safetensors")]) == 0
    text = capsys.readouterr().out
    assert "text prompts" in text
    assert "name a base checkpoint with --base" in text
    assert cli.main(["generate", "a fox", "--checkpoint", str(tmp_path / "a.safetensors"), "-o", "x.mp4"]) == 2
    assert "has no text encoder; name a base checkpoint with --base" in one_line(capsys)


def test_the_base_may_be_a_shipped_checkpoint(tmp_path):
    tiny = load_checkpoint(shipped_checkpoint("tiny"))
    save_checkpoint(tiny, tmp_path / "part.safetensors", parts=["branches", "mask"], base="tiny")
    words = ["generate", "a red circle", "--frames", "1", *QUICK, "-o", str(tmp_path / "out.mp4")]
    assert cli.main([*words, "--checkpoint", str(tmp_path / "part.safetensors"), "--base", "tiny"]) == 0
    assert len(read_video(tmp_path / "out.mp4")) == 1


@pytest.fixture
def usual_ctrl_c() -> Iterator[None]:
    """Tests started in the background may have inherited that SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_frame_being_made_is_finished_after_ctrl_c(usual_ctrl_c, checkpoint, tmp_path, capsys, monkeypatch):
    """The signal comes within frame 2; Python delivers it there."""
    step = execute.Progress.step

    def interrupt(self: execute.Progress, frame: int, info: object) -> None:
        step(self, frame, info)
        if frame == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(execute.Progress, "step", interrupt)
    latents = tmp_path / "l.safetensors"
    assert generate(checkpoint, tmp_path / "out.mp4", "--frames", 9, "--save-latents", latents) == 130
    captured = capsys.readouterr()
    assert captured.err.endswith("\nartv: stopped after 3 of 9 frames\n")
    assert captured.out.split() == [str(tmp_path / "out.mp4"), str(latents)]
    assert len(read_video(tmp_path / "out.mp4")) == len(load_file(latents)["latents"]) == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_stops_at_once_and_keeps_the_frames(usual_ctrl_c, checkpoint, tmp_path, capsys, monkeypatch):
    def interrupt(self: execute.Progress, frame: int, info: object) -> None:
        if frame == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(execute.Progress, "step", interrupt)
    assert generate(checkpoint, tmp_path / "out.mp4", "--frames", 9) == 130
    assert "stopped after 2 of 9 frames" in capsys.readouterr().err
    assert len(read_video(tmp_path / "out.mp4")) == 2


def test_ctrl_c_while_the_files_are_finished_loses_none(usual_ctrl_c, checkpoint, tmp_path, capsys, monkeypatch):
    """As when the key is held down: once in frame 2, then while the journal is closed and while the video is."""

    def interrupt(self: execute.Progress, frame: int, info: object) -> None:
        if frame == 2:
            signal.raise_signal(signal.SIGINT)

    def interrupted(function):
        def call(*arguments):
            signal.raise_signal(signal.SIGINT)
            return function(*arguments)

        return call

    monkeypatch.setattr(execute.Progress, "step", interrupt)
    monkeypatch.setattr(Journal, "close", interrupted(Journal.close))
    monkeypatch.setattr(writing, "move_index_to_front", interrupted(writing.move_index_to_front))
    latents = tmp_path / "l.safetensors"
    kept = ("--save-latents", latents, "--journal", tmp_path / "journals")
    assert generate(checkpoint, tmp_path / "out.mp4", "--frames", 9, *kept) == 130
    assert "stopped after 3 of 9 frames" in capsys.readouterr().err
    assert len(read_video(tmp_path / "out.mp4")) == len(load_file(latents)["latents"]) == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nothing_is_written_or_named_when_stopped_before_the_first_frame(
    usual_ctrl_c, checkpoint, tmp_path, capsys, monkeypatch
):
    def interrupt(self: execute.Progress, frame: int, info: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(execute.Progress, "step", interrupt)
    (tmp_path / "out.mp4").write_bytes(b"old")
    assert generate(checkpoint, tmp_path / "out.mp4", "--frames", 9) == 130
    assert capsys.readouterr().out == ""
    assert (tmp_path / "out.mp4").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.mp4"]


# --- the real process -------------------------------------------------------------------------------------------------


def process(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "artv_core.cli", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def fork(*arguments: object) -> Fork:
    """The same, and without the seconds in which a process imports everything."""
    return python_with(*COMMANDS).start(COMMAND, *arguments)


def test_help_is_quick_and_imports_no_torch():
    code = "import sys, artv_core.cli as c; c.main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout


def test_ctrl_c_in_a_terminal(checkpoint, tmp_path):
    running = process("generate", "a red circle", "-o", tmp_path / "out.mp4", "--checkpoint", checkpoint, *QUICK,
                      "--frames", 100_000)  # fmt: skip
    assert running.stderr is not None
    seen = ""
    while not re.search(r"[1-9]\d*/100000 frames", seen):
        seen += running.stderr.read(1)
        assert running.poll() is None, seen
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "stopped after" in err
    assert not re.search("Traceback|Warning", seen + err)
    assert out.strip() == str(tmp_path / "out.mp4")
    assert len(read_video(tmp_path / "out.mp4")) == int(re.findall(r"stopped after (\d+)", err)[0])
    assert sorted(os.listdir(tmp_path)) == ["artv_journals", "out.mp4"]
    (journal,) = list_journals(tmp_path / "artv_journals")
    assert journal.num_frames == len(read_video(tmp_path / "out.mp4"))


LONG = ["--frames", JOURNAL_FROM, "--seed", 3]


def test_a_killed_process_goes_on_and_its_video_is_that_of_an_uninterrupted_one(checkpoint, tmp_path, capsys):
    words = ["generate", "a red circle", "-o", tmp_path / "out.mp4", "--checkpoint", checkpoint, *QUICK, *LONG]
    running = fork(*words)
    kept, _ = killed(running, tmp_path / "out.mp4", frames=4)
    assert not (tmp_path / "out.mp4").exists()
    assert generate(checkpoint, tmp_path / "out.mp4", *LONG) == 0
    said = capsys.readouterr().err
    assert int(re.findall(r"continuing from frame (\d+)", said)[0]) == kept
    assert generate(checkpoint, tmp_path / "whole.mp4", *LONG, "--no-journal") == 0
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_an_endless_video_goes_on_until_it_is_stopped(checkpoint, tmp_path):
    """By SIGTERM here; the next test stops one by SIGINT."""
    running = fork("generate", "a red circle", "-o", tmp_path / "out.mp4", "--checkpoint", checkpoint, *QUICK,
                   "--frames", 0)  # fmt: skip
    growing = tmp_path / "out.part.mp4"
    while not (growing.exists() and growing.stat().st_size > 5_000):
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    assert len(read_video(growing)) > 1
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    assert "Traceback" not in err
    assert out.strip() == str(tmp_path / "out.mp4")
    assert not growing.exists()
    (journal,) = list_journals(tmp_path / "artv_journals")
    assert journal.num_frames == len(read_video(tmp_path / "out.mp4"))


def test_an_endless_video_is_finished_after_ctrl_c(usual_ctrl_c, checkpoint, tmp_path, capsys, monkeypatch):
    step = execute.Progress.step

    def interrupt(self: execute.Progress, frame: int, info: object) -> None:
        step(self, frame, info)
        if frame == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(execute.Progress, "step", interrupt)
    assert generate(checkpoint, tmp_path / "out.mp4", "--frames", 0) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out.mp4")
    assert sorted(os.listdir(tmp_path)) == ["artv_journals", "out.mp4"]
    (journal,) = list_journals(tmp_path / "artv_journals")
    assert journal.num_frames == len(read_video(tmp_path / "out.mp4")) == 5


def test_an_error_in_a_process():
    failing = fork("info", "/no/such.safetensors")
    out, err = failing.communicate(timeout=60)
    assert (failing.returncode, out) == (2, "")
    assert re.fullmatch(r"artv: no such checkpoint: /no/such.safetensors;[^\n]*\n", err)


# --- warnings ---------------------------------------------------------------------------------------------------------


def test_words_that_are_lost_or_unknown_are_named(checkpoint, tmp_path, capsys):
    prompt = "a red circle " * 12 + "on a green elephant"
    assert generate(checkpoint, tmp_path / "out.mp4", "--frames", 1, "--negative", "Mice", prompt=prompt) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("artv:")]
    assert len(lines) == 2
    assert re.search("too long for the text encoder; .* ignored: .* on a green elephant$", lines[0])
    assert "tiny does not know these words and ignores them: elephant, mice; it knows: a, an, and, " in lines[1]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test if the error is not found before the weights are loaded."""
    for command in (generate_command, demo):
        monkeypatch.setattr(command, "load_pipeline", lambda args: pytest.fail("the model was loaded before the error"))


def damaged_checkpoints(checkpoint: Path, folder: Path) -> dict[str, Path]:
    whole = checkpoint.read_bytes()
    paths = {
        name: folder / f"{name}.safetensors" for name in ("truncated", "header", "pickled", "zip", "other", "empty")
    }
    paths["truncated"].write_bytes(whole[: len(whole) // 2])
    paths["header"].write_bytes(whole[:100])
    paths["pickled"].write_bytes(pickle.dumps({"weights": [1, 2]}))
    paths["empty"].write_bytes(b"")
    torch.save({"weights": torch.zeros(2)}, paths["zip"])
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2)}, paths["other"])
    return paths


def test_checkpoints_that_are_none(checkpoint, tmp_path, capsys, no_sampling):
    messages = {
        "truncated": "damaged",
        "header": "truncated",
        "pickled": "a pickle",
        "zip": "a zip archive",
        "other": "not an ARTV checkpoint",
        "empty": "is empty",
    }
    for name, path in damaged_checkpoints(checkpoint, tmp_path).items():
        for command in (["info", path], ["generate", "a fox", "-o", "x.mp4", "--checkpoint", path]):
            assert cli.main([str(word) for word in command]) == 2
            assert messages[name] in one_line(capsys)
    assert cli.main(["generate", "a fox", "-o", "x.mp4", "--checkpoint", str(tmp_path / "none")]) == 2
    assert "no such checkpoint" in one_line(capsys)
    assert cli.main(["info", str(tmp_path)]) == 2
    assert "is a folder" in one_line(capsys)


def test_a_checkpoint_with_wrong_shapes(checkpoint, tmp_path, capsys):
    tensors = load_file(checkpoint)
    with safe_open(checkpoint, "pt") as file:
        metadata = file.metadata()
    tensors["null_context"] = tensors["null_context"][1:].clone()
    save_file(tensors, tmp_path / "wrong.safetensors", metadata)
    assert generate(tmp_path / "wrong.safetensors", tmp_path / "out.mp4") == 2
    assert "wrong shapes: null_context (got [31, 48], expected [32, 48])" in one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frames", "-3"], "--frames is -3; give 1 or more, or 0 to continue until stopped"),
        (["--frames", "0", "--save-latents", "l"], "--frames 0 and --save-latents exclude each other"),
        (["--redo", "12"], "redo has '12'; give a frame and a seed"),
        (["--redo", "0:7"], "redo names frames [0]"),
        (["--adain", "2"], "adain_strength is 2.0; accepted are 0 (off) to 1"),
        (["--no-mask", "--mask-video", "m.mp4"], "--no-mask and --mask-video cannot be used together: the video"),
        (["--no-journal", "--start-over"], "--no-journal and --start-over cannot be used together"),
        (["--no-journal", "--journal", "j"], "--no-journal and --journal cannot be used together"),
        (["--continue-from", "none.artvj"], "cannot read journal none.artvj: no such file"),
        (["--drift", "x.png"], "x.png is the path of two outputs"),
        (["--drift", "none/x.csv"], "there is no folder"),
        (["--frames", "many"], "argument --frames: invalid int value"),
        (["--width", "0"], "width is 0; accepted are multiples of 8 up to 16384, such as 8"),
        (["--height", "-64"], "height is -64"),
        (["--width", "100"], "width is 100; accepted are multiples of 8 up to 16384, such as 96"),
        (["--height", "1" + "0" * 30], "such as 16384"),
        (["--steps", "0"], "steps is 0; accepted are 1 to 1000"),
        (["--steps", "-1"], "steps is -1; accepted are 1 to 1000"),
        (["--sampler", "magic"], "unknown sampler 'magic'; known samplers: euler"),
        (["--seed", "-1"], "--seed is -1; accepted are 0 to 18446744073709551615"),
        (["--seed", str(2**64)], f"--seed is {2**64}"),
        (["--seed", str(2**64 - 1), "--batch", "2"], "accepted are 0 to 18446744073709551614"),
        (["--batch", "0"], "--batch is 0"),
        (["--batch", "257"], "--batch is 257"),
        (["--fps", "0"], "frame rate is 0"),
        (["--fps", "nan"], "frame rate is nan"),
        (["--upscale", "0"], "upscale is 0"),
        (["--cfg-text", "inf"], "guidance_text is inf"),
        (["--cfg-text", "abc"], "--cfg-text is 'abc'; give a number, or frames from 0 on with numbers, as in"),
        (["--cfg-text", "8: 3"], "--cfg-text is '8: 3'; give a number, or frames from 0 on"),
        (["--noise-level", "1000"], "noise_level is 1000; accepted are 0 (clean) to 999"),
        (["--noise-level", "-1"], "noise_level is -1"),
        (["--anchor", "last"], "argument --anchor: invalid choice: 'last'"),
        (["--anchor", "first", "--anchor-image", "a.png"], "--anchor and --anchor-image cannot be used together"),
        (["--dtype", "int8"], "argument --dtype: invalid choice"),
        (["--image", "none.png"], "cannot read image none.png: there is no such file"),
        (["--image", __file__], "it is not an image"),
        (["--anchor-image", "none.png"], "cannot read image none.png"),
        (
            ["--anchor-image", "a", "--anchor-image", "b"],
            "was given 2 times, the number of prompts is 1; give it",
        ),
        (["--keyframe", "a.png"], "--keyframe is 'a.png'; give a frame and an image, as in 16=picture.png"),
        (["--keyframe", "1="], "--keyframe is '1='"),
        (["--keyframe", "1=none.png"], "cannot read image none.png"),
        (["--keyframe", "1=a.png", "--keyframe", "01=b.png"], "--keyframe names frame 1 twice"),
        (["--keyframe", "0=a.png", "--image", "b.png"], "frame 0 is given twice"),
        (["--keyframe", "8=a.png", "--frames", "8"], "a keyframe is at frame 8, but the video has 8 frames, 0 to 7"),
        (["--image", "none.png", "--frames", "1"], "--frames is 1 and includes the 1 given"),
        (["--image", "a.png", "--continue-from", "b"], "--image and --continue-from cannot be used together"),
        (["--continue-from", "none.safetensors"], "no such"),
        (["--continue-from", __file__], "not a safetensors file"),
        (["--prompts", "a.txt"], "give one of the two: a PROMPT or --prompts FILE"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["--mask-video", "x.gif"], "a video's name must end in .mp4, .mov, .mkv"),
        (["--mask-video", "no/such/folder/x.mp4"], "there is no folder"),
        (["--save-latents", "/dev/full"], "it is not an ordinary file"),
        (["--save-latents", "/"], "it is a folder"),
    ],
)
def test_arguments_that_will_not_do(checkpoint, tmp_path, capsys, no_sampling, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert generate(checkpoint, Path("out.mp4"), *arguments) == 2
    assert message in one_line(capsys)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a --image dog.png --drift dog.csv", "dog.png is an input and would be overwritten; a drift readout has its"),
        ("a --anchor-image dog.png --drift dog.csv", "dog.png is an input"),
        ("a --keyframe 3=dog.png --save-latents dog.png", "dog.png is an input"),
        ("a --image dog.png --save-latents link.png", "link.png is an input"),
        ("--prompts s.txt --drift s.txt", "s.txt is an input"),
        ("--prompts s.txt --save-latents s.txt", "s.txt is an input"),
        ("a --checkpoint mine --save-latents mine", "mine is an input"),
        ("a --base mine --save-latents sub/../mine", "mine is an input"),
        ("a --taesd mine --save-latents mine", "mine is an input"),
        ("a --continue-from old --save-latents old", "old is an input"),
        ("a --mask-video sub/../out.mp4", "out.mp4 is the path of two outputs; give"),
        ("a --mask-video out.part.mp4 --stream", "out.part.mp4 is the path of two outputs"),
        ("a --drift dog.csv --save-latents dog.png", "dog.png is the path of two outputs; a drift readout has its"),
    ],
)
def test_no_input_and_no_output_is_overwritten(checkpoint, tmp_path, capsys, no_sampling, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32)).save("dog.png")
    Path("link.png").symlink_to("dog.png")
    Path("s.txt").write_text("a fox\n")
    Path("mine").write_bytes(checkpoint.read_bytes())
    pipelines.save_latents("old", [torch.zeros(1, 4, 4, 4)], 0, "")
    Path("sub").mkdir()
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()}
    model = [] if "--checkpoint" in words else ["--checkpoint", str(checkpoint)]
    assert cli.main(["generate", *words.split(), "-o", "out.mp4", *QUICK, *model]) == 2
    assert message in one_line(capsys)
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: COMMAND"),
        (["paint"], "invalid choice: 'paint'"),
        (["generate", "a fox"], "required: -o/--output"),
        (["generate", "-o", "x.mp4"], "give one of the two: a PROMPT or --prompts FILE"),
        (["generate", "", "-o", "x.mp4"], "the prompt is empty"),
        (["generate", " \n", "-o", "x.mp4"], "the prompt is empty"),
        (["generate", "a fox", "-o", ""], "it is a folder|must end in"),
        (["generate", "a fox", "-o", "x.gif"], "must end in .mp4, .mov, .mkv"),
        (["generate", "a fox", "-o", "none/x.mp4"], "there is no folder"),
        (["generate", "a fox", "-o", "x.mp4", "--mask-video", "./x.mp4"], "is the path of two outputs"),
        (["demo", "--seed", "-1"], "--seed is -1"),
        (["demo", "--comfyui", "/nowhere", "--no-comfyui"], "cannot be used together"),
        (["demo", "--comfyui", "/nowhere"], "--comfyui and --checkpoint cannot be used together"),
        (["demo", "--output", __file__], "cannot make the folder"),
    ],
)
def test_command_lines_that_will_not_do(checkpoint, tmp_path, capsys, no_sampling, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    model = ["--checkpoint", str(checkpoint)] if len(words) > 1 else []
    assert cli.main([*words, *model]) == 2
    assert re.search(message.replace(".", r"\."), one_line(capsys))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["warp", "cuda:99", "mps:7", "meta", "cpu:1"])
def test_devices_that_are_not_there(checkpoint, tmp_path, capsys, name):
    assert generate(checkpoint, tmp_path / "out.mp4", "--device", name) == 2
    assert f"device {name!r}" in one_line(capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none(checkpoint, tmp_path, capsys):
    assert generate(checkpoint, tmp_path / "out.mp4", "--device", "cuda") == 2
    assert "device 'cuda' is not available; this machine has: cpu (1)" in one_line(capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "contains no prompt"),
        ("# nothing\n", "contains no prompt"),
        ("4: a fox", "line 1, column 1: the first prompt starts at"),
    ],
)
def test_prompt_files_that_will_not_do(checkpoint, tmp_path, capsys, no_sampling, content, message):
    path = tmp_path / "prompts.txt"
    path.write_text(content)
    assert generate(checkpoint, tmp_path / "out.mp4", "--prompts", path, prompt=None) == 2
    assert message in one_line(capsys)


@pytest.mark.parametrize(
    "made_with",
    ["", "{", "[" * 100_000, "[1]", "null", "7", '{"eta": ' + "[" * 900 + "]" * 900 + "}", '{"eta": "\\u001b[2J\\n"}'],
)
def test_settings_that_anyone_may_have_written(made_with):
    changes = jobs.changed_settings(job_of(Path("tiny")), made_with)
    assert all(len(change) < 300 and change.isprintable() for change in changes)


def test_frames_of_another_size_cannot_be_gone_on_from(checkpoint, tmp_path, capsys):
    saved = tmp_path / "l.safetensors"
    assert generate(checkpoint, tmp_path / "a.mp4", "--frames", 2, "--save-latents", saved) == 0
    capsys.readouterr()
    assert generate(checkpoint, tmp_path / "b.mp4", "--frames", 4, "--continue-from", saved, "--width", 64) == 2
    assert "a given frame's latent is 1x4x4x4, expected 1x4x4x8" in one_line(capsys)
    assert generate(checkpoint, tmp_path / "b.mp4", "--frames", 2, "--continue-from", saved) == 2
    assert "--frames is 2 and includes the 2 given" in one_line(capsys)
    assert generate(checkpoint, tmp_path / "b.mp4", "--batch", 2, "--continue-from", saved) == 2
    assert "contains 1 videos; leave --batch out" in one_line(capsys)
    assert generate(checkpoint, tmp_path / "b.mp4", "--continue-from", checkpoint) == 2
    assert "does not contain latents" in one_line(capsys)


def test_out_of_memory_is_one_line(checkpoint, tmp_path, capsys, monkeypatch):
    def fail(args: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory\nmore")

    monkeypatch.setattr(generate_command, "load_pipeline", fail)
    assert generate(checkpoint, tmp_path / "out.mp4") == 2
    assert "out of memory; try a smaller size" in one_line(capsys)


@pytest.fixture(params=["a full disk", "a limit on file size"])
def little_room(request: pytest.FixtureRequest, tmp_path: Path, file_size_limit) -> Iterator[tuple]:
    """A folder, and a context in which nearly nothing can be written there: a tmpfs where this process may mount one,
    and, with no right needed, a limit on the size of files. Both make real writes fail."""
    folder = tmp_path / "room"
    folder.mkdir()
    if request.param == "a full disk":
        command = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)]
        if not Path("/bin/mount").exists() or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("needs the right to mount a tmpfs; the limit on file size stands in")
        (folder / "filler").write_bytes(bytes(4096))
        yield folder, nullcontext()
        subprocess.run(["umount", str(folder)], check=True)
        return
    yield folder, file_size_limit(1024)


def test_a_full_disk(checkpoint, little_room, capsys):
    folder, full = little_room
    before = os.listdir(folder)
    with full:
        assert generate(checkpoint, folder / "out.mp4", "--frames", 3) == 2
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"artv: cannot write .*out\.mp4: (no space left on device|file too large)", lines[-1])
    assert not any("Traceback" in line for line in lines)
    assert os.listdir(folder) == before


def test_a_full_disk_for_latents(checkpoint, little_room, tmp_path, capsys):
    folder, full = little_room
    job = {"--width": 64, "--height": 64, "--frames": 1, "--save-latents": folder / "l.safetensors"}
    with full:
        generate(checkpoint, tmp_path / "out.mp4", *[word for pair in job.items() for word in pair])
    lines = capsys.readouterr().err.splitlines()
    assert re.match(r"artv: cannot write .*(l\.safetensors|out\.mp4): ", lines[-1])
    assert [name for name in os.listdir(folder) if name != "filler"] == []


def test_an_output_that_cannot_be_finished_costs_no_other(checkpoint, tmp_path, capsys, monkeypatch):
    """The first mask video's name is that of a folder when it is finished."""

    def in_the_way(self: execute.Progress, frame: int, info: object) -> None:
        (tmp_path / "masks-0.mp4").mkdir(exist_ok=True)

    monkeypatch.setattr(execute.Progress, "step", in_the_way)
    latents, drift = tmp_path / "l.safetensors", tmp_path / "drift.csv"
    others = ("--mask-video", tmp_path / "masks.mp4", "--save-latents", latents, "--drift", drift)
    assert generate(checkpoint, tmp_path / "out.mp4", "--frames", 3, "--batch", 2, *others) == 2
    assert re.fullmatch(r"artv: cannot write .*masks-0\.mp4: .*", capsys.readouterr().err.splitlines()[-1])
    for name in ("out-0.mp4", "out-1.mp4", "masks-1.mp4"):
        assert len(read_video(tmp_path / name)) == 3
    assert len(load_file(latents)["latents"]) == 3
    for number in (0, 1):
        assert len(read_drift_csv(tmp_path / f"drift-{number}.csv")) == 3
        assert (tmp_path / f"drift-{number}.png").stat().st_size > 0


def test_demo_wants_the_comfyui_that_was_named(tmp_path, capsys):
    command = ["demo", "--output", str(tmp_path / "out"), "--comfyui"]
    assert cli.main([*command, "/nowhere"]) == 2
    assert "there is no ComfyUI at /nowhere" in one_line(capsys)
    assert cli.main([*command, "/nowhere", "--dtype", "float16"]) == 2
    assert "--comfyui and --dtype cannot be used together" in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_demo_gives_no_advice_that_does_not_help(tmp_path, capsys, monkeypatch):
    """After `pip install .` there are no nodes for a ComfyUI."""
    host = tmp_path / "host"
    (host / "comfy_api").mkdir(parents=True)
    for name in ("main.py", "requirements.txt"):
        (host / name).touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "none"))
    monkeypatch.setattr(comfyui_server, "find_hosts", list)
    monkeypatch.setattr(comfyui_server, "PACK", tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "--output", __file__]) == 2
    assert "itself; to get ComfyUI: pip install comfy-cli, then comfy install\n" in capsys.readouterr().err
    monkeypatch.setattr(demo_comfyui, "PACK", tmp_path / "elsewhere")
    assert cli.main(["demo", "--output", __file__]) == 2
    assert "no ComfyUI found, so artv makes the clips itself\n" in capsys.readouterr().err
    assert cli.main(["demo", "--output", __file__, "--comfyui", str(host)]) == 2
    assert "installed without its nodes; in the folder of ARTV, run: pip install -e .\n" in capsys.readouterr().err


def test_train_is_a_command_too(capsys):
    """`python train.py` has the same options; `tests/test_training.py` trains by it."""
    assert cli.main(["train", "--config", "nothing.toml"]) == cli.USER_ERROR
    said = capsys.readouterr().err
    assert said == "artv train: no training configuration at nothing.toml; the shipped ones are in configs/\n"
