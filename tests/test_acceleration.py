"""Faster ways give the same frames: compiled, decoded beside the sampling, from 8-bit weights."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from artv_core.bench import measure
from artv_core.bench.variants import VARIANTS
from artv_core.checkpoint import load_taesd_decoder, save_checkpoint
from artv_core.cli import build_parser, main
from artv_core.config import preset
from artv_core.method.denoiser import run_networks
from artv_core.method.options import GenerateOptions
from artv_core.run.pipeline import Pipeline
from artv_core.speed.compiled import Compiled, check_compiler, one_behind
from artv_core.speed.fp8_weights import FP8, StoredLayer, store_fp8
from tests.forked import python_with
from tests.models import quickest, smallest
from tests.test_savings import text_of
from tests.test_unet import relative_error

PROMPT = "a red circle moving left on a blue background"


@pytest.fixture(scope="module")
def plain() -> Pipeline:
    return Pipeline.from_checkpoint("tiny")


# Compiled


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler (g++) to compile with")
def test_compiled_evaluations_are_the_same():
    model = quickest()
    options = GenerateOptions(num_frames=1, height=32, width=32, steps=2, first_frame_guidance=2.0)
    plain, made = (
        next(Pipeline(model, way).frames(text_of(model), options)).latent
        for way in (run_networks, Compiled(torch.device("cpu")))
    )
    assert relative_error(made, plain) < 1e-4


def test_there_is_one_graph_a_size_and_it_is_whole():
    from torch._dynamo.utils import counters

    model = quickest()
    options = GenerateOptions(num_frames=3, height=32, width=32, steps=2, seed=1, guidance_text=2.0)
    pipeline, compiled = Pipeline(model), Pipeline(model, Compiled(torch.device("cpu"), backend="eager"))
    text = text_of(model, 0, 2)
    plain = torch.cat([frame.latent for frame in pipeline.frames(text, options)])
    counters.clear()
    for seed, scale in ((1, 2.0), (2, 3.5)):
        run = replace(options, seed=seed, guidance_text=scale)
        made = torch.cat([frame.latent for frame in compiled.frames(text, run)])
        if seed == 1:
            assert relative_error(made, plain) < 1e-4
    assert counters["stats"]["unique_graphs"] == 2, "the first frame, and all others"
    assert not counters["graph_break"]


def test_many_sizes_are_compiled_for():
    """Torch by itself runs what is beyond its limit as it is, and nobody would notice but by the clock."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    model = quickest()
    pipeline, text = Pipeline(model, Compiled(torch.device("cpu"), backend="eager")), text_of(model)
    heights = (8, 16)
    with torch._dynamo.config.patch(recompile_limit=1):
        for height in heights:
            next(pipeline.frames(text, GenerateOptions(num_frames=1, height=height, width=8, steps=1)))
    assert counters["stats"]["unique_graphs"] == len(heights)


def test_what_cannot_be_compiled_for_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler"):
        check_compiler(torch.device("cpu"))
    with pytest.raises(ValueError, match="does not support device mps"):
        check_compiler(torch.device("mps"))


# Decoded beside the sampling


def test_each_frame_is_finished_when_the_next_is_begun_but_the_first_at_once():
    seen: list[str] = []

    def frames() -> Iterator[int]:
        for number in range(4):
            seen.append(f"sampled {number}")
            yield number

    def begin(number: int) -> int:
        seen.append(f"begun {number}")
        return number

    def finish(number: int) -> int:
        seen.append(f"finished {number}")
        return number

    got = []
    for number in one_behind(frames(), begin, finish):
        got.append(number)
        seen.append(f"got {number}")
    assert got == [0, 1, 2, 3]
    assert seen[:4] == ["sampled 0", "begun 0", "finished 0", "got 0"]
    assert seen[4:10] == ["sampled 1", "begun 1", "sampled 2", "finished 1", "got 1", "begun 2"]
    assert seen[-2:] == ["finished 3", "got 3"]
    assert list(one_behind([], begin, finish)) == []


@pytest.mark.parametrize("fails_at", range(4))
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_was_begun_before_an_error_is_finished(fails_at: int, error: type[BaseException]):
    """So that a video has all frames that were sampled."""

    def frames() -> Iterator[int]:
        yield from range(fails_at)
        raise error

    got: list[int] = []
    with pytest.raises(error):
        got.extend(one_behind(frames(), int, int))
    assert got == list(range(fails_at))


def test_an_error_while_a_frame_is_finished_finishes_nothing_twice():
    tried: list[int] = []

    def finish(number: int) -> int:
        tried.append(number)
        if number == 1:
            raise RuntimeError
        return number

    with pytest.raises(RuntimeError):
        list(one_behind(range(4), int, finish))
    assert tried == [0, 1]


# 8-bit weights


@torch.no_grad()
def test_weights_of_8_bits_are_near_and_take_a_quarter():
    for layer, x in (
        (nn.Conv2d(32, 48, 3, padding=1, stride=2), torch.randn(2, 32, 9, 9)),
        (nn.Linear(96, 64, bias=False), torch.randn(3, 5, 96)),
    ):
        layer.weight[0] = 0
        layer.weight[1] *= 1e-4
        stored = store_fp8(nn.Sequential(layer))[0]
        assert isinstance(stored, StoredLayer)
        assert stored.weight.dtype == FP8
        relative = (stored.plain_weight(torch.float32) - layer.weight).abs() / layer.weight.abs().clamp(min=1e-9)
        kept = layer.weight.abs() > 0.05 * layer.weight.abs().amax(dim=tuple(range(1, layer.weight.ndim)), keepdim=True)
        assert float(relative[kept].max()) <= 2**-4, "three bits after the point, rounded"
        assert relative_error(stored(x), layer(x)) < 0.05
        assert stored(x.bfloat16().to(x.dtype)).dtype == x.dtype
        layer.weight[1] *= 1e-2  # to about 1e-7: a float16 still has such numbers, but not their scale
        stored = store_fp8(nn.Sequential(layer))[0]
        assert isinstance(stored, StoredLayer)
        half, single = (stored.plain_weight(dtype)[1].float() for dtype in (torch.float16, torch.float32))
        assert (half - single).abs().max() <= 2**-25, "half of the smallest float16"
    assert not any(isinstance(layer, StoredLayer) for layer in store_fp8(nn.Sequential(nn.Linear(4, 4))))


def test_frames_from_8_bit_weights_are_like_the_others(plain):
    stored = Pipeline.from_checkpoint("tiny", fp8=True)
    size = {
        id(pipeline): sum(t.nbytes for t in pipeline.model.noise.state_dict().values()) for pipeline in (plain, stored)
    }
    assert size[id(stored)] < 0.3 * size[id(plain)]
    options = GenerateOptions(num_frames=2, seed=3, steps=4)
    for got, expected in zip(stored.frames(PROMPT, options), plain.frames(PROMPT, options), strict=True):
        assert 0 < float((got.image - expected.image).abs().mean()) < 0.03


# TAESD


def public_names(kind: str, key: str) -> str:
    number, _, rest = key.partition(".")
    return {"public": key, "diffusers": f"decoder.layers.{int(number) - 1}.{rest}", "ours": f"taesd_decoder.{key}"}[
        kind
    ]


@pytest.mark.parametrize("kind", ["public", "diffusers", "ours"])
def test_frames_are_decoded_by_the_taesd_that_is_given(plain, tmp_path, kind):
    """The shipped model's own decoder has TAESD's layout, so that the same images must come out."""
    from artv_core.models.taesd import TAESD

    vae = plain.model.vae
    assert isinstance(vae, TAESD)
    file = tmp_path / "taesd.safetensors"
    save_file(
        {public_names(kind, key): tensor.contiguous() for key, tensor in vae.taesd_decoder.state_dict().items()}, file
    )
    fast = Pipeline.from_checkpoint("tiny", taesd=file)
    assert fast.taesd is not None
    fast.model.vae = None
    options = GenerateOptions(num_frames=2, steps=1, height=32, width=32)
    for got, expected in zip(fast.frames(PROMPT, options), plain.frames(PROMPT, options), strict=True):
        torch.testing.assert_close(got.image, expected.image, rtol=0, atol=1e-4)


def test_a_file_without_taesd_is_one_line(tmp_path):
    file = tmp_path / "other.safetensors"
    save_file({"1.weight": torch.zeros(3)}, file)
    with pytest.raises(ValueError, match="does not contain TAESD's decoder for 4 latent channels"):
        load_taesd_decoder(file)
    words = ["generate", PROMPT, "--checkpoint", "tiny", "-o", str(tmp_path / "out.mp4")]
    assert main([*words, "--taesd", str(file)]) == 2


# artv bench


def test_variants_are_those_that_the_command_names():
    arguments = build_parser().parse_args(["bench", "--variants", *VARIANTS])
    assert arguments.variants == list(VARIANTS)
    for variant in VARIANTS.values():
        GenerateOptions(**dict(variant.options)).resolved(preset("tiny"))


def test_bench_measures_each_size_and_way(tmp_path, capsys, monkeypatch):
    """The first row in a process of its own, which takes seconds to start, the others in this one."""
    seen: list[measure.Case] = []
    own_process = measure.measured

    def measured(run, case):
        seen.append(case)
        return own_process(run, case) if len(seen) == 1 else run(case)

    monkeypatch.setattr(measure, "measured", measured)
    file, checkpoint = tmp_path / "bench.json", tmp_path / "smallest.safetensors"
    save_checkpoint(smallest(), checkpoint)
    sizes = ["--checkpoint", str(checkpoint), "--sizes", "32x32", "48x32", "--frames", "2", "--steps", "1"]
    assert main(["bench", *sizes, "--variants", "plain", "fp8", "--json", str(file), "--device", "cpu"]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [(row["size"], row["name"]) for row in rows] == [
        ("32x32", "plain"), ("32x32", "fp8"), ("48x32", "plain"), ("48x32", "fp8"),
    ]  # fmt: skip
    assert [(case.variant, case.options.width) for case in seen] == [
        ("plain", 32), ("fp8", 32), ("plain", 48), ("fp8", 48),
    ]  # fmt: skip
    assert all(row["first_frame"] > 0 and row["per_frame"] > 0 and row["peak_mb"] > 100 for row in rows)
    shown = capsys.readouterr().out
    assert "frames/s" in shown
    assert len(shown.splitlines()) == 2 + len(rows)


def test_bench_keeps_what_was_measured_before_a_failure(tmp_path, monkeypatch):
    """A number that is not known is null."""

    def measured(_, case):
        if case.variant == "fp8":
            raise ValueError("no room")
        return measure.Row(case.variant, "64x64", 1.0, 0.2, 0.1, float("nan"))

    monkeypatch.setattr(measure, "measured", measured)
    file = tmp_path / "bench.json"
    words = ["bench", "--preset", "tiny", "--device", "cpu", "--variants", "plain", "fp8", "--json"]
    assert main([*words, str(file)]) == 2
    (row,) = json.loads(file.read_text(), parse_constant=pytest.fail)["rows"]
    assert (row["name"], row["per_frame"], row["peak_mb"]) == ("plain", 0.1, None)


def test_bench_looks_first_whether_it_can_write(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "measured", lambda *_: pytest.fail("it measured"))
    assert main(["bench", "--preset", "tiny", "--device", "cpu", "--json", str(tmp_path / "none" / "bench.json")]) == 2
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["checkpoint", "base"])
def test_bench_takes_no_file_beside_a_preset(monkeypatch, capsys, name):
    monkeypatch.setattr(measure, "measured", lambda *_: pytest.fail("it measured"))
    assert main(["bench", "--preset", "sd21", f"--{name}", "x.safetensors"]) == 2
    assert f"--preset and --{name} cannot be used together" in capsys.readouterr().err


def test_a_measurement_whose_process_dies_is_told_in_one_line():
    with pytest.raises(ValueError, match="the process that measures was killed, perhaps because memory ran out; try"):
        measure.measured(os._exit, 9)


STARTING = """
import os, sys
from artv_core.bench import measure
class Starting:
    def __reduce__(self):
        return exec, (f"import time; open({sys.argv[1]!r}, 'w'); time.sleep(100)",)  # in the process that measures
os.setsid()
try:
    measure.measured(print, Starting())
except KeyboardInterrupt:
    print("stopped")
"""


def test_ctrl_c_while_a_measurement_starts_is_quiet(tmp_path):
    """Both processes get the signal, as from a terminal."""
    running = python_with("artv_core.bench.measure").start(STARTING, tmp_path / "starts")
    while running.poll() is None and not (tmp_path / "starts").exists():
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)
    assert running.communicate(60) == ("stopped\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "big"], "--sizes is 'big'; give width x height in pixels"),
        (["--sizes", "33x32"], "width is 33; accepted are multiples of 8 up to 16384, such as 32"),
        (["--frames", "1"], "--frames is 1; give 2 or more"),
        (["--variants", "warp"], "invalid choice: 'warp'"),
    ],
)
def test_what_bench_cannot_do_is_one_line(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
