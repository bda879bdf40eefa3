"""Replayed evaluations give the frames of plain ones to the bit, one replay for each; and the frame loop never waits.

No GPU is needed. A stand-in replays by calling the same function, and writes to the same tensors as before, as a CUDA
graph does. What it cannot see is whether CUDA captures the kernels right: `benchmarks/speed.py --parts gpu` does.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from artv_core.method import transfer
from artv_core.method.denoiser import at_once, run_networks
from artv_core.method.generate import VideoRequest
from artv_core.method.options import GenerateOptions
from artv_core.method.text_track import TextSegment, TextTrack
from artv_core.models.artv import ARTV
from artv_core.run.pipeline import Pipeline, make_pipeline
from artv_core.run.recording import FrameDigests
from artv_core.speed import graph_trial as capture_trial
from artv_core.speed import graphs as captured_module
from artv_core.speed.compiled import Compiled
from artv_core.speed.graph_trial import survives_capture
from artv_core.speed.graphs import MOST_GRAPHS, Captured, tensors_in
from tests.device_waits import DeviceWaits
from tests.models import frames_of, quickest, smallest
from tests.test_savings import text_of

CPU = torch.device("cpu")
OPTIONS = GenerateOptions(
    num_frames=5,
    height=16,
    width=24,
    steps=3,
    seed=1,
    guidance_text=2.0,
    guidance_anchor=1.5,
    first_frame_guidance=2.0,
)


class Tape:
    """Records as `CudaGraphs` does."""

    beside = staticmethod(at_once)

    def __init__(self) -> None:
        self.captures = 0

    def capture(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        self.captures += 1
        result = work()

        def again() -> None:
            for kept, new in zip(tensors_in(result), tensors_in(work()), strict=True):
                kept.copy_(new)

        return again, result


class Broken(Tape):
    def capture(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")


@pytest.fixture(scope="module")
def model() -> ARTV:
    return quickest()


@pytest.fixture(scope="module")
def deeper() -> ARTV:
    """With blocks to reuse."""
    return smallest(text=False)


def latents(model: ARTV, text: TextTrack, options: GenerateOptions, way: Any = run_networks) -> torch.Tensor:
    return torch.stack([frame.latent for frame in Pipeline(model, way).frames(text, options)])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"height": 24, "width": 16},
        {"batch_size": 3},
        {"sampler": "dpmpp_2s_ancestral"},
        {"mix_mode": "every_branch", "guidance_references": 1.3},
        {"reuse_every": 2},
        {"guidance_interval": (0.3, 0.8)},
        {"reuse_every": 3, "reuse_blocks": 2, "guidance_interval": (0.3, 0.8), "steps": 7},
        {"use_mask": False},
    ],
    ids=str,
)
def test_replayed_frames_are_the_plain_ones_to_the_bit(deeper, changes):
    options = replace(OPTIONS, **changes)
    text = text_of(deeper, 0, 2, 4)  # the text changes twice
    captured = Captured(CPU, graphs=Tape())
    assert torch.equal(latents(deeper, text, options, captured), latents(deeper, text, options))


def test_there_is_one_replay_an_evaluation_and_few_graphs(model):
    tape = Tape()
    captured, calls = Captured(CPU, graphs=tape), 0

    def counting(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return captured(*arguments)

    options = replace(OPTIONS, sampler="dpmpp_2s_ancestral")
    latents(model, text_of(model, 0, 3), options, counting)
    assert captured.replays == calls == OPTIONS.num_frames * 5
    assert tape.captures == 2, "the first frame, and all others"
    latents(model, text_of(model, 0), replace(options, seed=9, guidance_text=3.0), captured)
    assert tape.captures == 2, "another run of the same size takes the same graphs"


def test_results_stay_when_the_graph_is_replayed_again(model):
    captured, seen = Captured(CPU, graphs=Tape()), []

    def keep(index: int, info: Any) -> None:
        seen.append((info.denoised, info.denoised.clone()))

    list(frames_of(model, text_of(model), replace(OPTIONS, num_frames=3), on_step=keep, run_networks=captured))
    assert all(torch.equal(given, then) for given, then in seen)


def test_weights_that_were_changed_in_place_are_read_and_those_put_elsewhere_are_captured_anew(model):
    changed = quickest()
    tape = Tape()
    captured, text = Captured(CPU, graphs=tape), text_of(model)
    options = replace(OPTIONS, num_frames=3)
    weight = changed.noise.diffusion_model.middle_block[0].in_layers[2].weight
    before = latents(changed, text, options, captured)
    with torch.no_grad():
        weight.add_(0.1)
    in_place = latents(changed, text, options, captured)
    assert torch.equal(in_place, latents(changed, text, options))
    assert tape.captures == 2
    weight.data = weight.detach() - 0.3
    elsewhere = latents(changed, text, options, captured)
    assert torch.equal(elsewhere, latents(changed, text, options))
    assert tape.captures == 4
    assert not torch.equal(before, in_place)
    assert not torch.equal(in_place, elsewhere)


def test_graphs_of_two_models_are_not_mixed_up(model):
    other = quickest()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.05)
    captured, text, options = Captured(CPU, graphs=Tape()), text_of(model), replace(OPTIONS, num_frames=3)
    for which in (model, other, model):
        assert torch.equal(latents(which, text, options, captured), latents(which, text, options))


def test_graphs_of_many_sizes_do_not_pile_up(model):
    tape = Tape()
    captured = Captured(CPU, graphs=tape)
    for side in range(1, MOST_GRAPHS + 3):
        latents(model, text_of(model), replace(OPTIONS, num_frames=1, steps=1, height=8 * side, width=8), captured)
    assert len(captured._captures) == MOST_GRAPHS
    assert len(captured._conditions) == MOST_GRAPHS
    captured.reset()
    assert not captured._captures


def test_inside_inference_mode_and_outside_of_it(model):
    captured, text, options = Captured(CPU, graphs=Tape()), text_of(model), replace(OPTIONS, num_frames=2)
    plain = latents(model, text, options)
    with torch.inference_mode():
        assert torch.equal(latents(model, text, options, captured), plain)
    assert torch.equal(latents(model, text, options, captured), plain)


def test_where_capturing_fails_one_line_is_logged_and_frames_are_the_same(model, caplog):
    captured, text, options = Captured(CPU, graphs=Broken()), text_of(model), replace(OPTIONS, num_frames=3)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(latents(model, text, options, captured), latents(model, text, options))
    assert len(caplog.records) == 2, "one for the first frame, one for the others"
    message = caplog.records[0].getMessage()
    assert message.endswith("so frames take longer: operation not permitted when stream is capturing")
    assert captured.replays == 0


def test_cudamallocasync_is_tried_in_another_process_first(monkeypatch, caplog, model):
    tried: list[str] = []
    monkeypatch.setattr(captured_module, "survives_capture", lambda device: bool(tried.append(device)))
    for allocator in ("native", "cudaMallocAsync"):
        monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda allocator=allocator: allocator)
        reason = captured_module.why_not(torch.device("cuda:0"))
        assert bool(reason) == (allocator != "native")
    assert tried == ["cuda:0"]
    with caplog.at_level(logging.WARNING):
        refused = Captured(torch.device("cuda:0"))
    assert "use torch's own allocator" in caplog.records[-1].getMessage()
    options, text = replace(OPTIONS, num_frames=2), text_of(model)
    assert torch.equal(latents(model, text, options, refused), latents(model, text, options))


def test_the_trial_fails_where_there_is_no_card():
    assert not survives_capture("cuda:63")


class StoppedWhileCapturing(Tape):
    """The host's exception, over which the end of the capture puts another."""

    def __init__(self, stop: BaseException) -> None:
        super().__init__()
        self.stop = stop

    def capture(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        try:
            raise self.stop
        except BaseException:
            raise RuntimeError("capture was not joined")  # noqa: B904 (as CUDA does)


class StopError(Exception):
    pass


@pytest.mark.parametrize("stop", [StopError("stopped"), KeyboardInterrupt()])
def test_a_stop_while_capturing_ends_the_run(model, stop):
    captured = Captured(CPU, graphs=StoppedWhileCapturing(stop), stops=(StopError,))
    with pytest.raises(type(stop)):
        latents(model, text_of(model), replace(OPTIONS, num_frames=2), captured)


def test_after_a_failed_capture_no_other_is_tried_with_cudamallocasync(monkeypatch):
    monkeypatch.setattr(capture_trial, "_given_up", [])
    monkeypatch.setattr(capture_trial, "_tried", lambda device: True)
    assert survives_capture("cuda:0")
    capture_trial.give_up()
    assert not survives_capture("cuda:0")


def test_a_journal_takes_captured_frames_for_plain_ones_and_compiled_ones_for_others(model):
    def digest(way: Any) -> Any:
        request = VideoRequest(text_of(model), OPTIONS.resolved(model.config), run_networks=way)
        return FrameDigests(model, request, []).common

    assert digest(Captured(CPU, graphs=Tape())) == digest(run_networks)
    assert digest(Compiled(CPU, backend="eager")) != digest(run_networks)


def test_on_a_cpu_nothing_is_captured(model):
    assert make_pipeline(quickest()).run_networks is run_networks


# Waits


@pytest.mark.parametrize(
    ("changes", "replayed"),
    [({}, False), ({}, True), ({"reuse_every": 2}, True), ({"sampler": "dpmpp_2s_ancestral", "batch_size": 2}, False)],
    ids=str,
)
def test_the_frame_loop_never_waits_for_the_device(model, changes, replayed, monkeypatch):
    monkeypatch.setattr(transfer, "queues_work", lambda device: True)
    options = replace(OPTIONS, num_frames=4, reference_noise_level=20, anchor_noise_level=30, **changes)
    way = Captured(CPU, graphs=Tape()) if replayed else run_networks
    with DeviceWaits(model) as waits:
        frames = list(frames_of(model, two_texts(model), options, run_networks=way))
    assert len(frames) == 4
    assert waits.where == []


def test_a_wait_in_the_frame_loop_would_be_seen(model, monkeypatch):
    monkeypatch.setattr(transfer, "queues_work", lambda device: True)
    with DeviceWaits(model) as waits:
        list(
            frames_of(
                model,
                two_texts(model),
                replace(OPTIONS, num_frames=2),
                on_step=lambda _, info: info.denoised.sum().item(),
            )
        )
    assert waits.count == 2 * OPTIONS.steps


def two_texts(model: ARTV) -> TextTrack:
    """In main memory, as a program may give them."""
    generator = torch.Generator().manual_seed(0)
    contexts = [torch.randn(model.null_context.shape, generator=generator) for _ in range(2)]
    return TextTrack([TextSegment(0, contexts[0]), TextSegment(2, contexts[1])])
