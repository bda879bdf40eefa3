"""Files that nodes write: what a prefix may name, numbers that nobody takes twice, and devices that cannot do it."""

import re
import time

import pytest

from artv_core.commands.comfyui_server import Host, Server

from .conftest import InProcess
from .graphs import node, text_to_video, with_video

PROMPT = "a red circle moving right"


@pytest.fixture(scope="module")
def found(in_process: InProcess, host: Host, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Of one process, for starting one is slow."""
    return in_process(host, "written_files", tmp_path_factory.mktemp("files"))


def test_a_number_is_taken_once(found: dict) -> None:
    assert found["different"] == found["on disk"] == 24
    assert found["left"], "only what was written stays"
    assert found["growing"] == ["ARTV_00001_.mp4", "ARTV_00002_.mp4"]
    assert found["while growing"] == [f"ARTV_0000{n}_.part.mp4" for n in (1, 2, 3)]
    assert found["after"] == []
    first, second, linked = found["led out"]
    assert first == "filename_prefix '../x' leads out of the output folder; give a name inside it"
    assert second == "filename_prefix '/x/y' leads out of the output folder; give a name inside it"
    assert linked in ("", "filename_prefix 'linked/x' leads out of the output folder; give a name inside it")
    assert found["failed"] == ["not a number (NaN)", []], "a video that fails keeps no number"


def test_a_prefix_names_dates_and_values(found: dict) -> None:
    filled = found["filled in"]
    now = time.localtime()
    assert filled["%date:yyyy-MM-dd%/x"] in (time.strftime("%Y-%m-%d/x", now), time.strftime("%Y-%m-%d/x"))
    short = filled["%date:yy.M.d hh.mm.ss%"]
    assert re.fullmatch(rf"{now.tm_year % 100:02}\.{now.tm_mon}\.\d+ \d\d\.\d\d\.\d\d", short)
    assert filled["%ARTVLoader.checkpoint%"] == "a_b_c", "no value leads to another folder"
    assert filled["%ARTVLoader.base%"] == "%ARTVLoader.base%", "a wire has no value"
    assert filled["%My sampler.seed%-%width%"] == "7-%width%", "the host fills in sizes"
    assert filled["%Other.seed% 100%"] == "%Other.seed% 100%"
    assert filled["%My sampler.note%%Y.seed%"] == "9", "an empty value is one"


def test_decoded_and_streamed_videos_are_named_by_their_size(server: Server) -> None:
    prefix = "%date:yyyy%/%ARTVMaskedDiffusionSampler.seed%/%width%x%height%"
    streamed = node("ARTVStreamVideo", vae=["loader", 2], fps=8.0, filename_prefix=prefix, format="mp4", upscale=3)
    graph = text_to_video(PROMPT, frames=2, stream=["stream", 0]) | {"stream": streamed}
    graph = with_video(graph, upscale=2)
    graph["video"]["inputs"]["filename_prefix"] = prefix
    result = server.run(graph)
    assert result.status == "success", result.message
    names = {kind: result.outputs[kind]["images"][0] for kind in ("video", "sample")}
    seed = graph["sample"]["inputs"]["seed"]
    assert {file["subfolder"] for file in names.values()} == {f"{time.localtime().tm_year}/{seed}"}
    assert names["video"]["filename"] == "128x128_00001_.mp4"
    assert names["sample"]["filename"] == "192x192_00001_.mp4"
    made = server.base / "output" / str(time.localtime().tm_year)
    assert [folder.name for folder in made.iterdir()] == [str(seed)], "no other folder is made"
    assert sorted(path.name for path in (made / str(seed)).iterdir()) == ["128x128_00001_.mp4", "192x192_00001_.mp4"]
    for file in names.values():
        assert server.output_file(file).stat().st_size > 1000


def test_what_a_device_lacks_is_one_line(found: dict) -> None:
    kind, message = found["lacking"]["Halves"]
    assert kind == "ValueError"
    assert message.startswith("this device cannot do that (")
    assert "Half); start ComfyUI with --force-fp32, turn off 'compile' and 'CUDA graph' of the model" in message
    assert "\n" not in message
    assert found["lacking"]["Faulty"] == ["RuntimeError", "mat1 and mat2 shapes cannot be multiplied"]
    assert found["left of lacking"] == []


def test_a_stream_is_named_by_the_size_of_its_references(server: Server) -> None:
    picture = node("EmptyImage", width=96, height=64, batch_size=1, color=255)
    encoded = node("VAEEncode", pixels=["picture", 0], vae=["loader", 2])
    streamed = node("ARTVStreamVideo", vae=["loader", 2], fps=8.0, filename_prefix="%width%x%height%", format="mp4")
    streamed["inputs"]["upscale"] = 1
    graph = text_to_video(PROMPT, frames=3, stream=["stream", 0], references=["first", 0])
    result = server.run(graph | {"picture": picture, "first": encoded, "stream": streamed})
    assert result.status == "success", result.message
    assert result.outputs["sample"]["images"][0]["filename"] == "96x64_00001_.mp4"
