"""The shipped checkpoint `tiny`: it is small, complete, and its demo shows moving objects in the prompts' colours. And
the script of the default checkpoint's demo."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from artv_core.checkpoint import describe_checkpoint, load_checkpoint, part_of_weight, shipped_checkpoint
from artv_core.commands import demo_clips
from artv_core.media import read_video
from artv_core.method.options import GenerateOptions
from artv_core.models.known_words import unknown_words
from artv_core.run.pipeline import Pipeline
from artv_core.synthetic.quality import Rollout, quality_clips, read_rollout, survival
from artv_core.synthetic.reading import angle_between, median_motion, shifts
from artv_core.synthetic.shapes import DIRECTIONS, render, sample_clip
from artv_core.training.distill import student_sampling
from artv_core.training.vae import unchanged_cells
from tests.forked import COMMAND, COMMANDS, python_with


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `artv demo` made with `tiny`, run as a user does, from a folder that is not the repository."""
    folder = tmp_path_factory.mktemp("demo")
    words = ("demo", "--no-comfyui", "--output", "out", "--checkpoint", "tiny")
    result = python_with(*COMMANDS).run(COMMAND, *words, folder=folder, timeout=300)
    assert result.returncode == 0, result.stderr
    for path in result.stdout.split():
        assert (folder / path).is_file()
    assert "warning" not in result.stderr
    return folder / "out"


def video_of(path: Path) -> torch.Tensor:
    """A video of the demo at the size it was made in: [T, 3, 64, 64] in [0, 1]."""
    return torch.nn.functional.interpolate(read_video(path).float() / 255, size=(64, 64), mode="area")


def readings(path: Path) -> Rollout:
    return read_rollout(video_of(path)[None])


def clip(color: str, kind: str, background: str):
    import dataclasses

    return dataclasses.replace(sample_clip(0, 0), color=color, kind=kind, background=background)


@pytest.mark.parametrize(
    ("name", "color", "kind", "background", "motions"),
    [
        ("text-to-video", "red", "circle", "blue", ["right"]),
        ("image-to-video", "yellow", "square", "purple", ["down"]),
        ("two-prompts", "white", "circle", "green", ["right", "up"]),
    ],
)
def test_the_demo_shows_the_prompts_colours_and_motion(
    demo: Path, name: str, color: str, kind: str, background: str, motions: list[str]
):
    frames = 16 * len(motions)
    read = readings(demo / f"{name}.mp4")
    assert len(read.readings[0]) == frames
    assert {reading.background for reading in read.readings[0]} == {background}
    prompt = clip(color, kind, background)
    assert sum(survival(read, [prompt], frame) for frame in range(frames)) >= 0.9 * frames
    for index, wanted in enumerate(motions):
        motion = median_motion(shifts(read.readings[0][16 * index : 16 * index + 16], 64, 64))
        assert motion is not None
        assert angle_between(motion, DIRECTIONS[wanted]) <= 30, (wanted, motion)


def test_the_image_starts_its_video(demo: Path):
    first = video_of(demo / "image-to-video.mp4")[0]
    image = torch.frombuffer(bytearray(Image.open(demo / "image.png").tobytes()), dtype=torch.uint8)
    image = image.view(64, 64, 3).permute(2, 0, 1).float() / 255
    assert (first - image).abs().mean() < 0.05


@pytest.mark.parametrize(("student", "evaluations"), [("tiny-fast", 2), ("small-fast", 4)])
def test_a_fast_one_is_a_student(student: str, evaluations: int):
    """Its settings are those of a student of so few evaluations; what was not trained is as in its teacher."""
    fast, teacher = (load_checkpoint(shipped_checkpoint(name)) for name in (student, student.removesuffix("-fast")))
    sampling = student_sampling(teacher.config.sampling, evaluations)
    assert fast.config == replace(teacher.config, name=f"{student}-v1", sampling=sampling)
    kept, others = fast.state_dict(), teacher.state_dict()
    differing = {part_of_weight(name) for name in kept if not torch.equal(kept[name], others[name])}
    assert differing == {"unet", "branches", "mask"}


def test_the_sheet_has_a_row_for_each_clip(demo: Path):
    sheet = Image.open(demo / "contact-sheet.png")
    assert sheet.width > 8 * 64
    assert sheet.height > 3 * 64


def test_the_demo_of_each_checkpoint_is_in_its_words():
    configs = {name: describe_checkpoint(shipped_checkpoint(name)).config for name in ("small", "tiny")}
    scripts = {"small": demo_clips.PICTURES, "tiny": demo_clips.SHAPES}
    assert {name: demo_clips.script_for(config) for name, config in configs.items()} == scripts
    assert demo_clips.script_for(replace(configs["tiny"], vocabulary=())) == demo_clips.PICTURES
    for name, script in scripts.items():
        assert unknown_words(script.prompts, configs[name].vocabulary) == []


def test_the_default_demos_image_is_one_that_the_checkpoint_can_draw():
    """At the checkpoint's size its autoencoder keeps the picture. Other sizes are painted too."""
    model = load_checkpoint(shipped_checkpoint("small"), without=("mask", "text")).float()
    pixels = demo_clips.PICTURES.paint(*model.config.size)
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        decoded = model.decode_latents(model.encode_images(image))
    assert (decoded - image).square().mean() < 0.002
    assert image.std() > 0.1
    assert demo_clips.PICTURES.paint(64, 96).shape == (64, 96, 3)


def test_it_is_small_complete_and_names_its_version():
    path = shipped_checkpoint("tiny")
    summary = describe_checkpoint(path)
    assert path.stat().st_size <= 24e6
    assert path.stem == summary.config.name
    assert path.stem.startswith("tiny-v")
    assert not summary.missing
    assert "circle" in summary.config.vocabulary
    assert path.with_suffix(".md").is_file(), "the model card"


def test_directions_are_not_all_the_same():
    """Eight videos of one prompt but for the direction: the text decides where it goes. By chance one in six would."""
    pipeline = Pipeline.from_checkpoint("tiny")
    names = tuple(DIRECTIONS)
    options = GenerateOptions(num_frames=6, batch_size=len(names), seed=3, steps=2, first_frame_steps=8)
    texts = [f"a large red circle moving {name} fast on a blue background" for name in names]
    frames = [frame.image for frame in pipeline.frames([(0, texts)], options)]
    videos = torch.stack(frames, dim=1)
    read = read_rollout(videos)
    motions = [median_motion(shifts(readings, 64, 64)) for readings in read.readings]
    right = [
        motion is not None and angle_between(motion, DIRECTIONS[name]) <= 30
        for motion, name in zip(motions, names, strict=True)
    ]
    assert sum(right) >= 7, motions


def test_what_stands_still_does_so_in_latents():
    """The cells a moving object does not touch keep their values, so that the mask can copy them. tiny-v2: 0.074."""
    model = load_checkpoint(shipped_checkpoint("tiny"))
    clips = quality_clips(24)
    frames = render(clips, 2, *model.config.size)
    with torch.no_grad():
        first, second = (model.encode_images(frames[:, index]) for index in range(2))
    still = (unchanged_cells(frames[:, 0], frames[:, 1], 8) > 0).expand_as(first)
    assert 0.3 < still.float().mean() < 0.95
    assert (second - first)[still].square().mean().sqrt() < 0.025
    assert (second - first)[~still].square().mean().sqrt() > 0.2
