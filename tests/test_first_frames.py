"""`artv evaluate` by the protocol of each row of the paper's Table 1, on small stand-ins for models and data."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from artv_core.cli import main
from artv_core.evaluation.first_frames import find_first_frames, read_first_frame
from artv_core.evaluation.prompt_sets import Prompt, read_prompts
from artv_core.media import VideoWriter, read_video
from tests.clip_files import clip_model
from tests.test_evaluate import PretendC3D, PretendI3D

BLUE, ORANGE = (0.13, 0.30, 0.86), (0.98, 0.55, 0.08)
QUICK = ("--checkpoint", "tiny", "--size", "32x32", "--steps", "1", "--sampler", "euler")


def write_video(path: Path, color: Sequence[float], frames: int = 16) -> Path:
    """A frame of the colour, then darker and darker ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_suffix(".mkv")
    with VideoWriter(made, 8) as writer:
        for frame in range(frames):
            writer.append(torch.tensor(color)[:, None, None].expand(3, 32, 48) * 0.95**frame)
    return made.rename(path)  # a kind of video that is not written here, such as .avi, is told by its contents


def write_image(path: Path, color: Sequence[float]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (48, 32), tuple(round(255 * part) for part in color)).save(path)
    return path


def names(*given: str) -> list[Prompt]:
    return [Prompt(name, "a text") for name in given]


def test_files_are_found_by_name_or_in_the_folder_of_a_class(tmp_path: Path):
    true = write_video(tmp_path / "video7.mp4", BLUE)
    image = write_image(tmp_path / "00003.png", BLUE)
    first, second = (write_video(tmp_path / "Archery" / f"v_Archery_g0{n}.avi", BLUE, 1) for n in (1, 2))
    (tmp_path / "Archery" / ".hidden.avi").write_text("")
    (tmp_path / "Archery" / "notes.txt").write_text("")
    assert find_first_frames(tmp_path, names("video7", "00003", "Archery")) == [true, image, first]
    assert find_first_frames(tmp_path, names("Archery-0", "Archery-1", "00003-5")) == [first, second, image]
    other = write_image(tmp_path / "video7.jpg", ORANGE)
    assert find_first_frames(tmp_path, names("video7")) == [other], "an image is preferred"
    with pytest.raises(ValueError, match=r"video Archery-2 needs file number 3 of .*Archery, which has 2"):
        find_first_frames(tmp_path, names("Archery-2"))
    with pytest.raises(ValueError, match=r"no first frame for Bowling-1: give an image or a video of that name"):
        find_first_frames(tmp_path, names("video7", "Bowling-1"))
    with pytest.raises(ValueError, match="which is not a folder"):
        find_first_frames(tmp_path / "none", names("a"))


def test_the_first_frame_of_a_video_is_read(tmp_path: Path):
    for path in (write_video(tmp_path / "a.mp4", BLUE), write_image(tmp_path / "a.png", BLUE)):
        image = read_first_frame(path, 16, 24)
        assert image.shape == (1, 3, 16, 24)
        assert (image.mean(dim=(0, 2, 3)) - torch.tensor(BLUE)).abs().max() < 0.03
    (tmp_path / "b.mp4").write_text("nothing")
    with pytest.raises(ValueError, match=r"cannot read the first frame of .*b.mp4"):
        read_first_frame(tmp_path / "b.mp4", 16, 24)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random networks of the kinds that the published metrics use."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    for name, network in (("i3d", PretendI3D()), ("c3d", PretendC3D())):
        torch.jit.script(network).save(str(folder / f"{name}.pt"))
    return {name: folder / f"{name}.pt" for name in ("i3d", "c3d")}


@pytest.fixture(scope="module")
def ucf101(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two classes, laid out as they are distributed: one is blue, one orange."""
    root = tmp_path_factory.mktemp("ucf") / "UCF-101"
    for (name, _), color in zip(read_prompts("ucf101", 2), (BLUE, ORANGE), strict=True):
        write_video(root / name / f"v_{name}_g01_c01.avi", color)
        write_image(root.parent / "images" / f"{name}.png", color)
    return root


@pytest.fixture(scope="module")
def msrvtt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two test videos with their annotations beside."""
    root = tmp_path_factory.mktemp("msrvtt")
    for number, color in ((7010, BLUE), (7011, ORANGE)):
        write_video(root / "videos" / f"video{number}.mp4", color)
        write_image(root / "images" / f"video{number}.png", color)
    numbers = (7010, 7011)
    about = {
        "videos": [{"video_id": f"video{number}", "split": "test"} for number in numbers],
        "sentences": [{"video_id": f"video{number}", "caption": f"a color {number}"} for number in numbers],
    }
    (root / "annotations.json").write_text(json.dumps(about))
    return root


def color_of(frame: Tensor) -> Tensor:
    return frame.float().mean(dim=(1, 2)) / 255


def begins_with(folder: Path, color: Sequence[float]) -> bool:
    """Whether one of the videos begins with the colour, as far as the small autoencoder keeps it."""
    firsts = [color_of(read_video(path)[0]) for path in sorted(folder.glob("*.mp4"))]
    assert len(firsts) == 2
    return any(bool((first - torch.tensor(color)).abs().max() < 0.12) for first in firsts)


@pytest.mark.parametrize("row", ["text", "image", "true frame"])
def test_ucf101_by_each_row_of_table_1(
    row: str, tmp_path: Path, ucf101: Path, networks: dict[str, Path], capsys: pytest.CaptureFixture[str]
):
    """FVD and the IS on C3D of 16 frames: from text alone, from an image for each class, from true first frames."""
    given = {"text": [], "image": [str(ucf101.parent / "images")], "true frame": [str(ucf101)]}[row]
    command = ["evaluate", str(tmp_path / "made"), "--prompts", "ucf101", "--count", "2", "--true", str(ucf101)]
    command += [*(["--first-frames", *given] if given else []), *QUICK, "--report", str(tmp_path / "report.json")]
    assert main([*command, "--i3d", str(networks["i3d"]), "--c3d", str(networks["c3d"])]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert {"FVD", "IS on C3D"} < set(report["figures"])
    assert (report["figures"]["videos"], report["figures"]["true videos"]) == (2, 2)
    if given:
        assert begins_with(tmp_path / "made", BLUE)
        assert begins_with(tmp_path / "made", ORANGE)
        assert report["of"]["first_frames"] == given[0]
        at = command.index("--first-frames")
        assert main(command[:at] + command[at + 2 :]) == 2, "videos of another row are not mixed in"
        assert "made with other settings" in capsys.readouterr().err


@pytest.mark.parametrize("row", ["text", "images", "videos"])
def test_msrvtt_by_each_row_of_table_1(row: str, tmp_path: Path, msrvtt: Path, networks: dict[str, Path]):
    """FVD and CLIPSIM: from text alone, from an image for each video, from true first frames."""
    command = ["evaluate", str(tmp_path / "made"), "--prompts", f"msrvtt:{msrvtt / 'annotations.json'}"]
    command += ["--true", str(msrvtt / "videos"), *QUICK, "--report", str(tmp_path / "report.json")]
    command += [] if row == "text" else ["--first-frames", str(msrvtt / row)]
    assert main([*command, "--i3d", str(networks["i3d"]), *clip_model(tmp_path), "--frames", "10"]) == 0
    assert {"FVD", "CLIPSIM"} < set(json.loads((tmp_path / "report.json").read_text())["figures"])
    if row != "text":
        assert begins_with(tmp_path / "made", BLUE)
        assert begins_with(tmp_path / "made", ORANGE)


def test_what_cannot_be_found_is_one_line_before_any_video_is_made(
    tmp_path: Path, ucf101: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["evaluate", str(tmp_path / "made"), "--prompts", "ucf101", "--first-frames", str(ucf101), *QUICK]
    assert main([*command, "--count", "3"]) == 2
    assert "has no first frame for" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
    assert main(["evaluate", str(tmp_path), "--first-frames", str(ucf101)]) == 2
    assert "give --prompts too" in capsys.readouterr().err
