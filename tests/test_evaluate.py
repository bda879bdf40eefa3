"""`artv evaluate`: videos made and judged, on networks of the published kinds with random weights."""

import io
import json
import shutil
from argparse import Namespace
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.utils import get_featuresdict_from_dataset

from artv_core.checkpoint import resolve_checkpoint
from artv_core.cli import main
from artv_core.commands import evaluate as evaluate_command
from artv_core.commands.options import load_pipeline
from artv_core.data.clips import BrokenClip
from artv_core.data.decode import read_frames
from artv_core.data.sources import Entry
from artv_core.evaluation import features
from artv_core.evaluation.distances import inception_score
from artv_core.evaluation.features import (
    READINGS,
    Everyday,
    Reading,
    common_size,
    keep_features,
    kept_features,
    videos_of,
)
from artv_core.evaluation.making import check_folder, described
from artv_core.evaluation.networks import C3D, I3D, Clip, Inception
from artv_core.evaluation.prompt_sets import Prompt, read_prompts
from artv_core.media import VideoWriter, read_video
from artv_core.run.drift import plot_path, read_drift_csv
from artv_core.run.pipeline import Pipeline
from artv_core.training.processes import PATIENCE
from tests.clip_files import clip_model, write_shard
from tests.forked import COMMANDS, python_with

CPU = torch.device("cpu")


class Blank(FeatureExtractorInceptionV3):
    def load_state_dict(self, *_: object) -> None:
        """Whatever torch drew."""


class PretendI3D(nn.Module):
    """Takes a video as the published TorchScript does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv3d(3, 400, (4, 8, 8))

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = True) -> Tensor:
        return self.net(x / 127.5 - 1).mean([2, 3, 4])


class PretendC3D(nn.Module):
    """Takes 16 frames of bytes and gives probabilities, as the published TorchScript does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv3d(3, 101, (16, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(30 * self.net(x.float() / 255 - 0.5).mean([2, 3, 4]), dim=1)


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    torch.manual_seed(0)
    torch.save(Blank("inception-v3-compat", ["2048"], feature_extractor_weights_path=empty).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def i3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "i3d.pt"
    torch.manual_seed(0)
    torch.jit.script(PretendI3D()).save(str(path))
    return path


@pytest.fixture(scope="module")
def c3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "c3d.pt"
    torch.manual_seed(0)
    torch.jit.script(PretendC3D()).save(str(path))
    return path


def write_videos(folder: Path, count: int, seed: int, frames: int = 12, size: tuple[int, int] = (32, 48)) -> Path:
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    for number in range(count):
        colour, drift = torch.rand(2, 3, 1, 1, generator=generator)
        with VideoWriter(folder / f"{number}.mp4", 8) as writer:
            for frame in range(frames):
                writer.append((colour + 0.02 * frame * drift).clamp(0, 1).expand(3, *size))
        (folder / f"{number}.txt").write_text(f"a colour number {number}\n")
    return folder


# Prompts


def test_ucf101_has_a_caption_for_each_class_and_goes_round():
    prompts = read_prompts("ucf101")
    assert len(prompts) == len(set(prompts)) == 101
    assert len({text for _, text in prompts}) == 101
    assert prompts[0] == ("ApplyEyeMakeup", "a woman puts on eye makeup")
    many = read_prompts("ucf101", 250)
    assert len(many) == len({name for name, _ in many}) == 250
    assert many[101] == ("ApplyEyeMakeup-1", prompts[0].text)


def test_msrvtt_gives_each_test_video_one_of_its_captions(tmp_path: Path):
    videos = [{"video_id": f"video{n}", "split": "test" if n % 2 else "train"} for n in range(40)]
    sentences = [{"video_id": f"video{n}", "caption": f"caption {k} of {n}"} for n in range(40) for k in range(20)]
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps({"videos": videos, "sentences": sentences}))
    prompts = read_prompts(f"msrvtt:{file}")
    assert sorted(name for name, _ in prompts) == sorted(f"video{n}" for n in range(1, 40, 2))
    assert all(text.endswith(f" of {name.removeprefix('video')}") for name, text in prompts)
    assert prompts == read_prompts(f"msrvtt:{file}")
    assert prompts != read_prompts(f"msrvtt:{file}", seed=1)
    assert read_prompts(f"msrvtt:{file}", 5) == prompts[:5]


@pytest.mark.parametrize(
    ("text", "what", "message"),
    [
        ("\ufeff# nothing", "{file}", "contains no prompt; give one on each line"),
        ('\ufeff{"videos": 3}', "msrvtt:{file}", "lists 'videos' and 'sentences' are needed"),
        (None, "{file}", "cannot read prompts from .*accepted are ucf101, msrvtt:FILE.json, or a text file"),
        ("# nothing\n\n", "{file}", "contains no prompt; give one on each line"),
        ("[]", "msrvtt:{file}", "lists 'videos' and 'sentences' are needed"),
        ("{", "msrvtt:{file}", "cannot read the annotations"),
        ('{"videos": [{"video_id": 3}], "sentences": []}', "msrvtt:{file}", "a record lacks a text 'split'"),
        ('{"videos": [], "sentences": []}', "msrvtt:{file}", "no captions of videos whose 'split' is 'test'"),
    ],
)
def test_prompts_that_cannot_be_read(tmp_path: Path, text: str | None, what: str, message: str):
    file = tmp_path / "prompts"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_prompts(what.format(file=file))


# Networks


def test_frames_are_seen_as_torch_fidelity_sees_them(
    tmp_path: Path, inception: Path, capsys: pytest.CaptureFixture[str]
):
    """Each frame of two videos as torch-fidelity itself sees it; and the figures follow from what was seen of all."""
    folders = [write_videos(tmp_path / name, count, count, frames=2) for name, count in (("made", 6), ("true", 1))]
    report = tmp_path / "report.json"
    command = ["evaluate", str(folders[0]), "--true", str(folders[1]), "--inception", str(inception), "--frames", "2"]
    assert main([*command, "--report", str(report)]) == 0
    figures = json.loads(report.read_text())["figures"]
    network = FeatureExtractorInceptionV3("it", ["2048", "logits_unbiased"], str(inception))
    ours, kept = [], tmp_path / "artv-features"
    for entries, _ in map(videos_of, folders):
        features, read, _ = kept_features(entries, Inception(inception, CPU), Reading(2, 8.0, (32, 48)), kept)
        assert read == entries
        ours.append({name: torch.cat(each) for name, each in features.items()})
        seen = get_featuresdict_from_dataset(
            _Images(_bytes(entries[0])), network, batch_size=2, cuda=False, save_cpu_ram=True, verbose=False
        )
        assert torch.allclose(ours[-1]["features"][:2], seen["2048"], rtol=1e-3, atol=1e-5)
        assert torch.allclose(ours[-1]["logits"][:2], seen["logits_unbiased"], rtol=1e-3, atol=1e-4)
    made, true = ours
    assert (len(made["features"]), len(true["features"])) == (12, 2)
    expected = _frechet_distance_of_few(true["features"], made["features"])
    assert figures["FID"] == pytest.approx(expected, rel=1e-3)
    assert figures["FID"] > 0
    assert figures["IS"]["mean"] == pytest.approx(inception_score(made["logits"]).mean, rel=1e-3)
    assert figures["IS"]["mean"] > 1
    assert f"FID: {figures['FID']:.5g}" in capsys.readouterr().out


def _frechet_distance_of_few(*features: Tensor) -> float:
    """By the singular values of a matrix that is as large as there are samples, where there are fewer than features."""
    centred = [(each - each.mean(0)).double() / (len(each) - 1) ** 0.5 for each in features]
    apart = (features[0].mean(0) - features[1].mean(0)).double().square().sum()
    shared = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    return float(apart + sum(each.square().sum() for each in centred) - 2 * shared)


class _Images(torch.utils.data.Dataset):
    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def _bytes(entry: Entry) -> Tensor:
    return (255 * read_frames(entry, [k / 8 for k in range(2)], (32, 48))).round().to(torch.uint8)


def test_i3d_sees_the_whole_video(i3d: Path):
    frames = torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    network = I3D(i3d, CPU)
    features = network(frames, "")["features"]
    expected = torch.jit.load(str(i3d))((255 * frames).movedim(0, 1)[None])
    assert features.shape == (1, 400)
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(features, network(frames.flip(0), "")["features"], rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=r"does not accept \(video \[1, 3, 2, height, width\]"):
        network(frames[:2], "")


def test_c3d_gives_the_logarithms_of_its_probabilities(c3d: Path, i3d: Path):
    frames = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    network = C3D(c3d, CPU)
    logits = network(frames, "")["logits"]
    expected = torch.jit.load(str(c3d))((255 * frames).round().to(torch.uint8).movedim(0, 1)[None])
    assert logits.shape == (1, 101)
    assert torch.allclose(logits.softmax(1), expected, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(logits, network(frames.flip(0), "")["logits"], rtol=1e-3)
    with pytest.raises(ValueError, match=r"does not accept a video \[1, 3, 12, height, width\] of bytes"):
        network(frames[:12], "")
    with pytest.raises(ValueError, match="gives no probabilities of classes"):
        C3D(i3d, CPU)(frames, "")


def test_the_is_on_c3d_is_of_whole_videos(tmp_path: Path, c3d: Path, capsys: pytest.CaptureFixture[str]):
    videos = write_videos(tmp_path / "videos", 20, 0, frames=16)
    assert main(["evaluate", str(videos), "--c3d", str(c3d), "--report", str(tmp_path / "report.json")]) == 0
    assert "IS on C3D: mean" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    network = C3D(c3d, CPU)
    seen = [network(read_frames(entry, [k / 8 for k in range(16)], (32, 48)), "") for entry in videos_of(videos)[0]]
    score = inception_score(torch.cat([found["logits"] for found in seen]), splits=10)
    assert score.mean > 1.1
    assert report["figures"]["IS on C3D"] == {"mean": score.mean, "deviation": score.deviation}
    assert report["weights"] == {"c3d": "c3d.pt"}


def test_weights_that_cannot_be_used_are_one_line(tmp_path: Path, i3d: Path):
    nothing = tmp_path / "nothing.pth"
    for network, source in ((Inception, "torch-fidelity"), (I3D, "StyleGAN-V"), (C3D, "StyleGAN-V")):
        with pytest.raises(ValueError, match=f"cannot read .*: no such file or directory; get it from .*{source}"):
            network(nothing, CPU)
        nothing.write_bytes(b"nothing")
        with pytest.raises(ValueError, match=r"contains more than weights|is not TorchScript"):
            network(nothing, CPU)
        nothing.unlink()
    torch.save({"a": torch.zeros(3)}, nothing)
    with pytest.raises(ValueError, match="contains no weights of Inception v3"):
        Inception(nothing, CPU)
    torch.save(nn.Linear(2, 2), nothing)  # a pickled object, which could run anything
    with pytest.raises(ValueError, match="contains more than weights"):
        Inception(nothing, CPU)


# From one end to the other


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, i3d: Path) -> tuple[Path, list[str]]:
    """Four videos of `tiny`, made and judged; and the command."""
    root = tmp_path_factory.mktemp("judged")
    (root / "prompts.txt").write_text("a red circle\na blue square\na green star\na pink triangle\n")
    true = write_videos(root / "true", 4, 5)
    command = ["evaluate", str(root / "videos"), "--prompts", str(root / "prompts.txt"), "--true", str(true)]
    command += ["--checkpoint", "tiny", "--frames", "10", "--size", "32x32", "--steps", "1", "--sampler", "euler"]
    command += ["--i3d", str(i3d), *clip_model(root), "--report", str(root / "report.json")]
    assert main(command) == 0
    return root, command


def test_videos_are_made_and_judged(judged: tuple[Path, list[str]]):
    root, _ = judged
    videos = sorted((root / "videos").glob("*.mp4"))
    assert [video.name for video in videos] == [f"{number:05d}.mp4" for number in range(4)]
    assert (root / "videos/00001.txt").read_text() == "a blue square\n"
    assert read_video(videos[0]).shape == (10, 3, 32, 32)
    report = json.loads((root / "report.json").read_text())
    figures = report["figures"]
    assert (figures["videos"], figures["true videos"], figures["left out"]) == (4, 4, 0)
    assert figures["FVD"] > 0
    assert -1 <= figures["CLIPSIM"] <= 1
    assert figures["drift from the first frame, at the last"]["shift"] > 0
    assert report["weights"] == {"i3d": "i3d.pt", "clip": "model.json"}
    assert report["read"] == {"frames": 10, "fps": 8.0, "size": [32, 32]}


def test_drift_is_told_by_frame_and_drawn_beside_that_of_true_videos(tmp_path: Path):
    videos, true = (write_videos(tmp_path / name, 3, seed) for seed, name in enumerate(("videos", "true")))
    readout = tmp_path / "drift.csv"
    command = ["evaluate", str(videos), "--frames", "12", "--drift", str(readout), "--report", str(tmp_path / "r.json")]
    assert main(command) == 0
    readings = read_drift_csv(readout)
    each = [Everyday()(read_frames(entry, [k / 8 for k in range(12)], (32, 48)), "") for entry in videos_of(videos)[0]]
    by_hand = torch.stack([found["drift"] for found in each])
    assert [reading.index for reading in readings] == list(range(12))
    assert [reading.shift for reading in readings] == pytest.approx(by_hand[:, :, 0].mean(0).tolist(), rel=1e-5)
    assert [reading.sharpness for reading in readings] == pytest.approx(by_hand[:, :, 2].median(0).values.tolist())
    assert readings[11].shift > readings[3].shift > 0  # colours change from frame to frame
    last = json.loads((tmp_path / "r.json").read_text())["figures"]["drift from the first frame, at the last"]
    assert last == {name: getattr(readings[-1], name) for name in READINGS}
    alone = Image.open(plot_path(readout)).convert("RGB")
    assert main([*command, "--true", str(true)]) == 0
    assert read_drift_csv(readout) == readings
    assert Image.open(plot_path(readout)).convert("RGB").tobytes() != alone.tobytes()


def test_no_input_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n", encoding="utf-8")
    given = ["evaluate", str(tmp_path / "videos"), "--prompts", str(prompts)]
    for outputs, told in (
        (["--report", str(prompts)], f"{prompts} is an input and would be overwritten; give the output another path"),
        (["--drift", "d.csv", "--report", "d.png"], "d.png is the path of two outputs; a drift readout has its plot"),
    ):
        assert main([*given, *outputs]) == 2
        assert told in capsys.readouterr().err
    assert prompts.read_text(encoding="utf-8") == "a red circle\n"


def test_clipsim_is_open_clips_mean_cosine(judged: tuple[Path, list[str]]):
    root, command = judged
    model, weights = (command[command.index(f"--clip-{name}") + 1] for name in ("model", "weights"))
    clip = Clip(model, weights, CPU)
    cosines = []
    for entry in videos_of(root / "videos")[0]:
        found = clip(read_frames(entry, [k / 8 for k in range(10)], (32, 32)), entry.caption)
        cosines.append(float((found["frames"] @ found["text"][0]).mean()))
    report = json.loads((root / "report.json").read_text())
    assert report["figures"]["CLIPSIM"] == pytest.approx(sum(cosines) / 4, rel=1e-4)


def test_what_is_there_is_not_made_again(judged: tuple[Path, list[str]], tmp_path: Path):
    """A video and a few features lack, as after a stop; the report comes out the same."""
    root, command = judged
    before = (root / "report.json").read_text()
    videos = {path: path.stat().st_mtime_ns for path in (root / "videos").glob("*.mp4")}
    lost = min(videos)
    pixels = read_video(lost)
    lost.unlink()
    features = sorted((root / "artv-features").rglob("*.safetensors"))
    features[0].unlink()
    assert main(command) == 0
    again = {path: path.stat().st_mtime_ns for path in (root / "videos").glob("*.mp4")}
    assert {path for path in videos if videos[path] != again[path]} == {lost}
    assert torch.equal(read_video(lost), pixels)
    assert json.loads((root / "report.json").read_text()) == json.loads(before)


def test_videos_of_other_settings_are_not_mixed(
    judged: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root, command = judged
    weights = bytearray(resolve_checkpoint("tiny").read_bytes())
    weights[-2] ^= 1  # the last bit of a number
    (tmp_path / "other.safetensors").write_bytes(weights)
    for words, told in (
        (["--seed", "5"], "(seed 0 -> 5)"),
        (["--dtype", "bfloat16"], "(dtype float32 -> bfloat16)"),
        (["--checkpoint", str(tmp_path / "other.safetensors")], "(checkpoint file "),
    ):
        assert main([*command, *words]) == 2
        assert f"contains videos made with other settings {told}" in capsys.readouterr().err
    prompts = (root / "prompts.txt").read_text()
    (root / "prompts.txt").write_text(f"a green ring\n{prompts}")
    assert main(command) == 2
    assert "made with other settings (the text or first frame of 00000; " in capsys.readouterr().err
    (root / "prompts.txt").write_text(prompts)


def test_a_folder_goes_on_with_more_prompts_and_with_the_same_first_frames(tmp_path: Path):
    image, made_with = tmp_path / "a.png", {"seed": 0, "guidance": (3, 4)}
    image.write_bytes(b"one")
    few, more = ([Prompt(f"{number:05d}", f"text {number}") for number in range(count)] for count in (1, 2))
    for prompts in (few, more, few, more):
        check_folder(tmp_path / "made", made_with, described(prompts, [image] * len(prompts)))
    image.write_bytes(b"two")
    with pytest.raises(
        ValueError, match=r"other settings \(the text or first frame of 00000; .* 00001\); give another"
    ):
        check_folder(tmp_path / "made", made_with, described(more, [image] * 2))
    with pytest.raises(ValueError, match=r"other settings \(the text or first frame of 00001\)"):
        check_folder(tmp_path / "made", made_with, described([Prompt("00001", "text 1")]))
    for earlier in ('{"seed": 0, "prompts": "ucf101"}', "", "[]"):
        (tmp_path / "made/made-with.json").write_text(earlier)
        with pytest.raises(ValueError, match=r"^[^\n]*does not say which checkpoint file, [^\n]* give another folder"):
            check_folder(tmp_path / "made", made_with, described(few))


def test_only_videos_that_the_prompts_name_are_judged(
    judged: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root, command = judged
    few = [*command[: command.index("--i3d")], "--count", "2", "--report", str(tmp_path / "report.json")]
    assert main(few) == 0
    assert f"not judged: 2 videos in {root / 'videos'} that these prompts do not name, such as 00002.mp4" in (
        capsys.readouterr().err
    )
    assert json.loads((tmp_path / "report.json").read_text())["figures"]["videos"] == 2


def test_made_videos_are_read_at_the_rate_they_are_made_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def quick(args: Namespace) -> Pipeline:
        pipeline = load_pipeline(args)
        pipeline.model.config = replace(pipeline.model.config, fps=4.0)
        return pipeline

    monkeypatch.setattr(evaluate_command, "load_pipeline", quick)
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    command = ["evaluate", str(tmp_path / "videos"), "--prompts", str(tmp_path / "prompts.txt"), "--frames", "3"]
    command += ["--checkpoint", "tiny", "--size", "32x32", "--steps", "1", "--report", str(tmp_path / "report.json")]
    assert main([*command, "--fps", "8"]) == 2
    assert "--fps is 8, and tiny-v3 makes 4 frames per second; leave --fps out" in capsys.readouterr().err
    assert not (tmp_path / "videos").exists()
    assert main(command) == 0
    assert json.loads((tmp_path / "report.json").read_text())["read"]["fps"] == 4.0


LAUNCH = """
import sys
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from artv_core.cli import main
from artv_core.evaluation import evaluate

def command(*words):
    sys.exit(main(words))

config = LaunchConfig(1, 1, 2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0, start_method="fork")
elastic_launch(config, command)(*sys.argv[1:])
"""
"""What `torchrun --standalone --nproc_per_node 2` does, but that its processes are forks, with torch there already."""


@pytest.mark.timeout(300)
def test_several_processes_give_the_same(judged: tuple[Path, list[str]], tmp_path: Path):
    root, command = judged
    expected = json.loads((root / "report.json").read_text())["figures"]
    moved = [str(tmp_path / "videos") if word == str(root / "videos") else word for word in command]
    moved[-1] = str(tmp_path / "report.json")
    ran = python_with(*COMMANDS, "open_clip", "torchmetrics.image.fid").run(LAUNCH, *moved, timeout=280)
    assert ran.returncode == 0, ran.stderr[-3000:]
    figures = json.loads((tmp_path / "report.json").read_text())["figures"]
    assert figures["FVD"] == pytest.approx(expected["FVD"], rel=1e-3)
    assert figures["CLIPSIM"] == pytest.approx(expected["CLIPSIM"], rel=1e-3)


def test_processes_wait_for_one_another_as_long_as_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """PyTorch's own patience on GPUs is ten minutes."""
    asked = {}

    def connect(**how: object) -> None:
        asked.update(how)
        raise ValueError("far enough")

    monkeypatch.setattr("accelerate.PartialState", connect)
    assert main(["evaluate", str(tmp_path)]) == 2
    assert asked["timeout"] == PATIENCE >= timedelta(hours=1)


def test_what_cannot_be_read_is_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = write_videos(tmp_path / "videos", 2, 0)
    (folder / "9.mp4").write_bytes(b"nothing")
    assert main(["evaluate", str(folder), "--frames", "4"]) == 0
    told = capsys.readouterr()
    assert "left out: 9.mp4" in told.err
    assert "videos: 2" in told.out
    assert main(["evaluate", str(folder), "--frames", "40"]) == 2
    assert "not one of 3 videos could be read" in capsys.readouterr().err


def test_true_videos_of_which_none_can_be_read_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    videos, true = (write_videos(tmp_path / name, 1, 0, frames) for name, frames in (("made", 12), ("true", 4)))
    assert main(["evaluate", str(videos), "--true", str(true), "--frames", "12"]) == 2
    told = capsys.readouterr().err
    assert "not one of 1 true videos could be read; the first: 0.mp4: the video ends at" in told


def test_a_list_is_judged_with_and_without_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_videos(tmp_path / "videos", 2, 0)
    for columns, rows in (
        ("path", "videos/0.mp4\nvideos/1.mp4\nvideos/none.mp4\n"),
        ("path,caption", "videos/0.mp4,a colour\nvideos/1.mp4,\nvideos/none.mp4,a cat\n"),
    ):
        (tmp_path / "list.csv").write_text(f"{columns}\n{rows}")
        assert main(["evaluate", str(tmp_path / "list.csv"), "--frames", "4"]) == 0
        told = capsys.readouterr()
        assert "left out: videos/none.mp4: there is no such file" in told.err
        assert "videos: 2\ntrue videos: 0\nleft out: 1\n" in told.out


def test_shards_are_judged_with_and_without_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    videos = write_videos(tmp_path / "videos", 2, 0)
    members = {f"{number}.mp4": (videos / f"{number}.mp4").read_bytes() for number in range(2)}
    shard = write_shard(tmp_path / "s.tar", {**members, "1.txt": b"a colour", "2.webp": b""})
    assert main(["evaluate", str(shard), "--frames", "4"]) == 0
    told = capsys.readouterr()
    assert "left out: s.tar/2.webp: it is no kind of video" in told.err
    assert "videos: 2\ntrue videos: 0\nleft out: 1\n" in told.out


def test_an_error_that_may_pass_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    entries, _ = videos_of(write_videos(tmp_path / "videos", 2, 0))
    reading, networks = Reading(4, 8.0, (32, 32)), {"everyday": Everyday()}

    def broken() -> list[str]:
        keep_features(entries, networks, reading, tmp_path / "kept")
        return kept_features(entries, networks["everyday"], reading, tmp_path / "kept")[2]

    def failing(entry: Entry, *_: object) -> Tensor:
        raise BrokenClip(f"{entry.name}: {len(seen)}", passing=entry.name == "0.mp4")

    seen = [0]
    with monkeypatch.context() as patch:
        patch.setattr(features, "read_frames", failing)
        assert broken() == ["0.mp4: 1", "1.mp4: 1"]
        seen.append(0)
        assert broken() == ["0.mp4: 2", "1.mp4: 1"]
    assert broken() == ["1.mp4: 1"]
    assert not list((tmp_path / "kept").rglob("*.passing"))


def test_clipsim_without_texts_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = write_videos(tmp_path / "videos", 2, 0)
    for text in folder.glob("*.txt"):
        text.unlink()
    assert main(["evaluate", str(folder), "--frames", "4", *clip_model(tmp_path)]) == 2
    assert "CLIPSIM needs a text beside each video (a.mp4, a.txt), and there is none" in capsys.readouterr().err
    assert not (tmp_path / "artv-features").exists()


def test_features_belong_to_file_text_and_reading(tmp_path: Path):
    folder = write_videos(tmp_path / "videos", 1, 0)
    seen: list[str] = []

    class Network:
        identity = "counting"

        def __call__(self, frames: Tensor, caption: str) -> dict[str, Tensor]:
            seen.append(caption)
            return {"features": frames.mean((1, 2, 3))[:, None]}

    def look(frames: int = 4) -> Tensor:
        reading = Reading(frames, 8.0, (32, 32))
        entries = videos_of(folder)[0]
        keep_features(entries, {"it": Network()}, reading, tmp_path / "kept")
        return kept_features(entries, Network(), reading, tmp_path / "kept")[0]["features"][0]

    assert look().shape == (4, 1)
    look()
    assert len(seen) == 1
    look(5)
    (folder / "0.txt").write_text("another text\n")
    look()
    assert seen[-1] == "another text"
    shutil.copy(write_videos(tmp_path / "other", 1, 9) / "0.mp4", folder / "0.mp4")
    look()
    assert len(seen) == 4
    assert common_size(videos_of(folder)[0]) == (32, 48)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--i3d", "x.pt"], "--i3d is for FVD, which compares with true videos; give --true DIR"),
        (["--true", "t", "--i3d", "x.pt", "--frames", "4"], "an I3D needs 10 or more"),
        (["--c3d", "x.pt", "--frames", "12"], "--frames is 12, and a C3D takes 16; give --frames 16"),
        (["--drift", "a.png"], "--drift is a.png, but that is the name of the plot; give a name that ends in .csv"),
        (["--frames", "1"], "--frames is 1; give 2 or more"),
        (["--fps", "nan"], "--fps is nan"),
        (["--size", "4x4"], "--size is '4x4'; give width x height in pixels, 8 to 16384 each"),
        (["--count", "3"], "give --prompts too"),
        (["--clip-model", "ViT-B-32"], "--clip-model and --clip-weights need each other"),
        ([], "no videos found in"),
    ],
)
def test_what_cannot_be_judged_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
):
    assert main(["evaluate", str(tmp_path), *words]) == 2
    told = capsys.readouterr().err.strip()
    assert message in told
    assert "\n" not in told
