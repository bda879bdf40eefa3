"""Journals and streams in a real ComfyUI: no frame is made twice, and files are there while they grow."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from artv_core.commands.comfyui_server import Graph, Result, Server
from artv_core.media import read_video
from artv_core.method.options import GenerateOptions
from artv_core.run.journal_folder import lock_journal
from artv_core.run.journal_list import list_journals
from artv_core.run.pipeline import Pipeline

from .graphs import STEPS, node, text_to_video

PROMPT = "a red circle moving right"


SEEDS = itertools.count(1000)
seed = 0


@pytest.fixture(autouse=True)
def _no_journals(server: Server) -> Iterator[None]:
    """At the start, for journals are counted and other files use this server too. And a seed of each test's own: what
    the host has in its cache makes no journal."""
    global seed
    seed = next(SEEDS)
    remove_journals(server)
    yield
    remove_journals(server)


def remove_journals(server: Server) -> None:
    if folder(server).is_dir():
        for journal in list_journals(folder(server)):
            journal.path.unlink()


def folder(server: Server) -> Path:
    return server.base / "output" / "artv_journals"


def journaled(mode: str = "on", start_over: bool = False, redo: str = "", **sampler) -> Graph:
    return text_to_video(PROMPT, journal=["journal", 0], **{"seed": seed} | sampler) | {
        "journal": node("ARTVJournalSettings", mode=mode, start_over=start_over, redo=redo),
        "said": node("PreviewAny", source=["sample", 3]),
    }


def run(server: Server, graph: Graph) -> tuple[Tensor, int]:
    """The latents, and how many of them the journal held (-1: there is none)."""
    result = server.run(graph)
    assert result.status == "success", result.message
    saved = server.output_file(result.outputs["save"]["latents"][0])
    held = re.search(r"(\d+) frames were already saved", result.outputs["said"]["text"][0])
    return load_file(saved)["latent_tensor"], int(held[1]) if held else -1


def test_a_longer_video_goes_on_from_a_shorter_one(server: Server) -> None:
    short, held_by_short = run(server, journaled(frames=3, seed=7))
    long, held_by_long = run(server, journaled(frames=5, seed=7))
    assert (held_by_short, held_by_long) == (0, 3)
    assert torch.equal(long[:3], short)
    (journal,) = list_journals(folder(server))
    assert journal.num_frames == 5
    pipeline = Pipeline.from_checkpoint(server.base / "models" / "artv" / "test.safetensors")
    made = pipeline.frames(PROMPT, GenerateOptions(num_frames=5, seed=7, steps=STEPS))
    assert (long - torch.cat([frame.latent for frame in made])).abs().max() < 1e-4


@pytest.mark.parametrize(("frames", "kept"), [(32, 0), (33, 1)])
def test_journals_are_kept_of_long_videos_by_themselves(server: Server, frames: int, kept: int) -> None:
    graph = text_to_video(PROMPT, frames=frames, steps=1, sampler_name="euler", seed=seed)
    assert server.run(graph).status == "success"
    assert len(list_journals(folder(server))) == kept


def test_none_is_kept_when_it_is_off(server: Server) -> None:
    assert run(server, journaled("off", frames=34, steps=1))[1] == -1
    assert list_journals(folder(server)) == []


def test_start_over_makes_all_frames_and_leaves_the_old_journal(server: Server) -> None:
    first, _ = run(server, journaled(frames=3))
    again, held = run(server, journaled(start_over=True, frames=3))
    assert held == 0
    assert torch.equal(first, again)
    assert len(list_journals(folder(server))) == 2


def test_redo_takes_the_frames_before(server: Server) -> None:
    first, _ = run(server, journaled(frames=5))
    redone, held = run(server, journaled(redo="3: 99", frames=5))
    assert held == 3
    assert torch.equal(first[:3], redone[:3])
    assert not torch.equal(first[3], redone[3])
    plain, _ = run(server, journaled("off", redo="3: 99", frames=5))
    assert torch.equal(plain, redone)


def scheduled(text: str) -> Graph:
    settings = {"pre_text": "", "app_text": "", "blend_frames": 0, "fps": 8.0, "num_frames": 0, "segment_frames": 16}
    graph = journaled(frames=5, positive=["schedule", 0])
    return graph | {"schedule": node("ARTVMultiPromptScheduler", clip=["loader", 1], text=text, **settings)}


def test_another_prompt_from_a_frame_on_takes_the_frames_before(server: Server) -> None:
    first, _ = run(server, scheduled('"0": "a red circle", "3": "a blue star"'))
    second, held = run(server, scheduled('"0": "a red circle", "3": "a green square"'))
    assert held == 3
    assert torch.equal(first[:3], second[:3])


def test_a_lora_is_an_input(server: Server) -> None:
    from safetensors.torch import save_file

    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    for name, seed in (("one", 1), ("other", 2)):
        torch.manual_seed(seed)
        tensors = {f"{stem}.lora_up.weight": torch.randn(128, 4), f"{stem}.lora_down.weight": torch.randn(4, 128)}
        (server.base / "models" / "loras").mkdir(exist_ok=True)
        save_file(tensors, server.base / "models" / "loras" / f"{name}.safetensors")

    def with_lora(name: str, strength: float) -> Graph:
        lora = node("ARTVLoRA", model=["loader", 0], lora_name=name, strength=strength, strength_clip=1.0)
        return journaled(model=["lora", 0]) | {"lora": lora}

    assert run(server, journaled())[1] == 0
    assert run(server, with_lora("one.safetensors", 0.5))[1] == 0
    assert run(server, with_lora("one.safetensors", 0.6))[1] == 0
    assert run(server, with_lora("other.safetensors", 0.5))[1] == 0
    assert run(server, with_lora("one.safetensors", 0.5) | {"more": node("PreviewAny", source=["sample", 2])})[1] == 3


def cancelled(server: Server, graph: Graph, after_frames: int) -> Result:
    def stop(result: Result) -> None:
        if result.progress[-1][0] == "sample" and result.progress[-1][1] > after_frames * STEPS:
            server.interrupt()

    graph["slow"] = node("ARTVTestSlow", model=["loader", 0], seconds=0.1)
    graph["sample"]["inputs"] |= {"model": ["slow", 0], "sampler_name": "euler"}
    result = server.run(graph, stop)
    assert result.status == "interrupted", result.message
    return result


def test_a_cancelled_run_goes_on_and_its_frames_can_be_loaded(server: Server) -> None:
    cancelled(server, journaled(frames=30), after_frames=4)
    (journal,) = list_journals(folder(server))
    assert 4 <= journal.num_frames < 30
    loading = {
        "load": node("ARTVLoadJournal", journal=journal.path.name, first_frame=1, frames=0),
        "loader": node("ARTVLoader", checkpoint="test.safetensors", base="none"),
        "save": node("SaveLatent", samples=["load", 0], filename_prefix="latents/loaded"),
        "masks": node("MaskToImage", mask=["load", 1]),
        "seen": node("PreviewImage", images=["masks", 0]),
        "said": node("PreviewAny", source=["load", 2]),
    }
    result = server.run(loading)
    assert result.status == "success", result.message
    loaded = load_file(server.output_file(result.outputs["save"]["latents"][0]))["latent_tensor"]
    assert len(loaded) == len(result.outputs["seen"]["images"]) == journal.num_frames - 1
    assert f"{journal.num_frames} frames" in result.outputs["said"]["text"][0]
    whole, held = run(server, journaled(frames=12, sampler_name="euler"))
    assert held == journal.num_frames
    count = min(12, journal.num_frames)
    assert torch.equal(whole[1:count], loaded[: count - 1])


def test_a_loaded_journal_that_has_grown_is_loaded_anew(server: Server) -> None:
    run(server, journaled(frames=2))
    (journal,) = list_journals(folder(server))
    loading = {
        "load": node("ARTVLoadJournal", journal=journal.path.name, first_frame=0, frames=0),
        "save": node("SaveLatent", samples=["load", 0], filename_prefix="latents/loaded"),
    }
    counts = []
    for frames in (2, 4):
        run(server, journaled(frames=frames))
        result = server.run(loading)
        counts.append(len(load_file(server.output_file(result.outputs["save"]["latents"][0]))["latent_tensor"]))
    assert counts == [2, 4]


@pytest.mark.parametrize("name", ["nowhere.artvj", "../latents/x", "/etc/passwd", "../../models/artv/test.safetensors"])
def test_only_journals_in_their_folder_are_loaded(server: Server, name: str) -> None:
    run(server, journaled(frames=2))
    graph = {
        "load": node("ARTVLoadJournal", journal=name, first_frame=0, frames=0),
        "save": node("SaveLatent", samples=["load", 0], filename_prefix="latents/x"),
    }
    result = server.run(graph)
    assert result.status in ("refused", "error")
    assert "not in" in result.message or "there is no journal" in result.message


def test_journals_are_listed_and_removed_by_name(server: Server) -> None:
    run(server, journaled(frames=2))
    run(server, journaled(frames=2, seed=seed + 10**6))
    outside = server.base / "output" / "precious.artvj"
    outside.write_text("not in the folder of journals")
    names = [journal.path.name for journal in list_journals(folder(server))]

    def listed(remove: str) -> str:
        result = server.run({"list": node("ARTVJournals", remove=remove)})
        assert result.status == "success", result.message
        return result.outputs["list"]["text"][0]

    assert listed("").startswith("2 journals, ")
    lock = lock_journal(folder(server) / names[1])
    assert lock is not None
    said = listed(f"{names[1]}\n{names[0]}\n{names[0]}\n../precious.artvj\n")
    lock.release()
    assert f"{names[1]} was not removed: " in said
    assert "is in use" in said
    assert said.count(f"{names[0]} was removed") == 1
    assert "../precious.artvj is not there" in said
    assert "1 journal, " in said
    assert outside.exists()
    outside.unlink()
    assert [journal.path.name for journal in list_journals(folder(server))] == names[1:]


# Streams


def streamed(**sampler) -> Graph:
    return text_to_video(PROMPT, stream=["stream", 0], **sampler) | {
        "stream": node(
            "ARTVStreamVideo", vae=["loader", 2], fps=8.0, filename_prefix="video/live", format="mp4", upscale=2
        )
    }


def test_a_streamed_video_is_that_of_the_latents(server: Server) -> None:
    graph = streamed(frames=4, videos=2, seed=21)
    graph["decode"] = node("VAEDecode", samples=["sample", 0], vae=["loader", 2])
    graph["seen"] = node("PreviewImage", images=["decode", 0])
    result = server.run(graph)
    assert result.status == "success", result.message
    files = [server.output_file(file) for file in result.outputs["sample"]["images"]]
    assert [len(read_video(file)) for file in files] == [4, 4]
    assert read_video(files[0]).shape[-2:] == (128, 128)
    assert not list(files[0].parent.glob("*.part.mp4"))
    assert not torch.equal(read_video(files[0]), read_video(files[1]))


def growing(server: Server) -> list[Path]:
    return list((server.base / "output" / "video").glob("*.part.mp4"))


def test_a_video_can_be_watched_while_it_is_sampled(server: Server) -> None:
    counts, before = [], set(growing(server))

    def watch(result: Result) -> None:
        if result.progress[-1][0] == "sample" and result.progress[-1][1] == 5 * STEPS:
            (path,) = set(growing(server)) - before
            counts.append(len(read_video(path)))

    graph = streamed(frames=8, sampler_name="euler", seed=22, model=["slow", 0])
    graph["slow"] = node("ARTVTestSlow", model=["loader", 0], seconds=0.2)
    assert server.run(graph, watch).status == "success"
    assert counts
    assert all(3 <= count <= 6 for count in counts)


def test_what_was_streamed_stays_when_the_run_is_cancelled(server: Server) -> None:
    before = set((server.base / "output" / "video").glob("*"))
    cancelled(server, streamed(frames=30, seed=23), after_frames=3)
    (left,) = set((server.base / "output" / "video").glob("*")) - before
    assert left.name.endswith(".part.mp4")
    assert 3 <= len(read_video(left)) < 30
    left.unlink()


@pytest.mark.parametrize("prefix", ["../../outside", "/tmp/outside"])
def test_streams_stay_in_the_output_folder(server: Server, prefix: str) -> None:
    graph = streamed(frames=2)
    graph["stream"]["inputs"]["filename_prefix"] = prefix
    result = server.run(graph)
    assert result.status == "error"
    assert "leads out of the output folder" in result.message


def test_statistics_follow_the_anchor_when_asked(server: Server) -> None:
    anchor = node("ARTVAnchorFrame", policy="previous segment", strength=1.0, window=10)
    held = anchor | {"inputs": anchor["inputs"] | {"adain_strength": 1.0}}
    spreads = []
    for part in (anchor, held):
        latents, _ = run(server, journaled(frames=4, anchor=["anchor", 0]) | {"anchor": part})
        means = latents.mean(dim=(-2, -1))
        spreads.append(float((means - means[:1]).abs().max()))
    assert spreads[1] < 1e-4 < spreads[0]
