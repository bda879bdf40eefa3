"""Steering a run in a real ComfyUI, over HTTP: what is said is obeyed by the next frame, and the schedule that comes
back makes the same frames again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from websockets.sync.client import ClientConnection, connect

from artv_core.commands.comfyui_server import ADDRESS, Graph, Host, Result, Server

from .conftest import InProcess, checkpoint_in, save_random_model
from .graphs import node, text_to_video
from .steered import FIRST, FRAMES, SEEDS, THEN, Driver, graph, made, steer


@pytest.mark.parametrize("blend", [0, 2])
def test_what_is_said_is_obeyed_and_its_schedule_makes_the_same_again(server: Server, blend: int) -> None:
    asked = graph(blend=blend, frames=12)
    driver = Driver(server, (2, {"say": THEN}))
    latents, result = made(server, asked, driver)
    ((start, said),) = result.live[-1]["steering"]["said"]
    assert said == THEN
    assert driver.at[0] <= start <= driver.at[0] + 2, "the frame that is being made, and at most one more"
    schedule = result.live[-1]["steering"]["schedule"]
    assert schedule == f'"0": "{FIRST}",\n"{start}": "{THEN}"'
    seed = asked["sample"]["inputs"]["seed"]
    again, _ = made(server, graph(schedule, 0.0, blend, frames=12, seed=seed))
    assert torch.equal(again, latents)
    plain, _ = made(server, graph(slow=0.0, blend=blend, frames=12, seed=seed))
    assert torch.equal(plain[:start], latents[:start])
    assert not torch.equal(plain[start:], latents[start:])


def test_steps_back_leave_what_was_before_and_can_be_made_again(server: Server) -> None:
    asked = graph()
    asked["journal"] = node("ARTVJournalSettings", mode="on", start_over=False, redo="")
    asked["sample"]["inputs"]["journal"] = ["journal", 0]
    asked["told"] = node("PreviewAny", source=["sample", 3])
    driver = Driver(server, (4, {"back": 2}), (6, {"back": 3, "say": THEN}))
    latents, result = made(server, asked, driver)
    assert not driver.problems
    assert f"0 frames were already saved, {FRAMES} had to be made" in result.outputs["told"]["text"][0]
    assert result.live[-1]["known"] == 0
    told = result.live[-1]["steering"]
    assert len(latents) == FRAMES
    assert any(message["whole"] for message in result.live), "pages forget the frames that were dropped"
    redo = "\n".join(f"{frame}: {seed}" for frame, seed in told["redo"])
    again, _ = made(server, graph(told["schedule"], 0.0, redo=redo, seed=asked["sample"]["inputs"]["seed"]))
    assert torch.equal(again, latents)


def test_a_run_can_be_paused_and_stopped_and_its_frames_are_kept(server: Server) -> None:
    driver = Driver(server, (2, {"pause": True}), (2, {"pause": False, "say": THEN}), (5, {"stop": True}))
    latents, result = made(server, graph(), driver)
    assert [answer["paused"] for answer in driver.answers] == [True, False, False]
    assert 5 <= len(latents) < FRAMES
    last = result.live[-1]
    assert (last["state"], last["done"], last["total"]) == ("finished", len(latents), len(latents))
    shown = [picture["index"] for message in result.live for picture in message["pictures"]]
    assert shown[-1] == len(latents) - 1


@pytest.mark.parametrize("wired", [False, True])
def test_a_steered_result_is_not_taken_for_what_its_inputs_make(server: Server, wired: bool) -> None:
    """The host keeps results by their inputs. Queued again as it was, the run is made as it was asked for."""
    asked = graph()
    if wired:
        sampler = asked["sample"]["inputs"]
        asked["seed"] = node("PrimitiveInt", value=sampler["seed"])
        sampler["seed"] = ["seed", 0]
    steered, _ = made(server, asked, Driver(server, (3, {"say": THEN})))
    usual, result = made(server, asked)
    assert "sample" in result.executed
    assert not torch.equal(usual, steered)
    _, cached = made(server, {**asked, "save": node("SaveLatent", samples=["sample", 0], filename_prefix="latents/x")})
    assert "sample" not in cached.executed


def interrupted(server: Server, asked: Graph, client: str, **extra: Any) -> list[list[Any]]:
    """What was said in a run that was interrupted some frames later."""
    driver = Driver(server, (2, {"say": THEN}))

    def interrupt_later(result: Result) -> None:
        driver(result)
        if result.live and result.live[-1]["done"] >= 6:
            server.interrupt()

    stopped = server.run(asked, interrupt_later, watch=True, client=client, **extra)
    assert stopped.status == "interrupted"
    return stopped.live[-1]["steering"]["said"]


def test_whoever_steered_an_interrupted_run_goes_on_with_it_and_nobody_else(server: Server) -> None:
    asked = graph()
    asked["journal"] = node("ARTVJournalSettings", mode="on", start_over=False, redo="")
    asked["sample"]["inputs"]["journal"] = ["journal", 0]
    seed = asked["sample"]["inputs"]["seed"]
    said = interrupted(server, asked, "steer-first")
    assert said
    plain, result = made(server, asked, client="steer-second")
    assert result.live[-1]["steering"]["said"] == []
    assert torch.equal(plain, made(server, graph(slow=0.0, seed=seed))[0])
    latents, result = made(server, asked, client="steer-first")
    assert result.live[-1]["steering"]["said"] == said
    schedule = result.live[-1]["steering"]["schedule"]
    assert torch.equal(latents, made(server, graph(schedule, 0.0, seed=seed))[0])


def test_what_was_said_in_a_page_and_is_not_in_its_schedule_was_undone(server: Server) -> None:
    asked = graph()
    asked["journal"] = node("ARTVJournalSettings", mode="on", start_over=False, redo="")
    asked["sample"]["inputs"]["journal"] = ["journal", 0]
    page = {"client": "steer-page", "extra_pnginfo": {"workflow": {"id": "steered"}}}
    assert interrupted(server, asked, **page)
    latents, result = made(server, asked, **page)
    assert result.live[-1]["steering"]["said"] == []
    assert torch.equal(latents, made(server, graph(slow=0.0, seed=asked["sample"]["inputs"]["seed"]))[0])


def test_a_paused_run_can_be_interrupted(server: Server) -> None:
    def pause_then_interrupt(result: Result) -> None:
        if result.live and result.live[-1]["done"] >= 2:
            steer(server, {"run": result.live[-1]["run"], "pause": True})
            server.interrupt()

    assert server.run(graph(slow=0.2), pause_then_interrupt, watch=True).status == "interrupted"


def test_what_cannot_be_done_is_one_line_and_the_run_goes_on(server: Server) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"say": ""}, "the prompt is empty"),
        ({"say": "a" * 10_000}, "the prompt has 10000 characters; accepted are up to 2000"),
        ({"say": 5}, "say is '5'; it must be a text"),
        ({"say": "(fox:1e9)"}, "weight"),
        ({"back": 50}, "cannot go back 50 frames"),
        ({"back": True}, "back is 'True'; it must be a whole number"),
        ({"seed": 4}, "seed is given without back"),
        ({"pause": "yes"}, "pause is 'yes'; it must be true or false"),
        ({"say": THEN, "stop": 1}, "stop is '1'; it must be true or false"),
        ({"say": "a cat \ud83d"}, "half of a character"),
        ({"run": "another"}, "no such run is known"),
        ({"run": None}, "client_id is not known"),
    ]
    driver = Driver(server, *[(2, question) for question, _ in wrong])
    _, result = made(server, graph(frames=6), driver)
    assert not driver.answers
    assert len(driver.problems) == len(wrong)
    for problem, (question, expected) in zip(driver.problems, wrong, strict=True):
        assert expected in problem, question
        assert "\n" not in problem
    assert "the run has ended" in steer(server, {"run": result.live[-1]["run"], "say": THEN})
    assert result.live[-1]["steering"]["said"] == []


def test_a_flood_of_words_stops_nothing_and_the_last_counts(server: Server) -> None:
    driver = Driver(server, *[(2, {"say": f"a blue square number {number}"}) for number in range(300)])
    _, result = made(server, graph(slow=0.2), driver)
    said = result.live[-1]["steering"]["said"]
    assert said[-1][1] == "a blue square number 299"


def test_prompts_from_elsewhere_cannot_be_changed_but_the_run_can_be_taken_back(server: Server) -> None:
    asked = text_to_video(FIRST, frames=8, seed=next(SEEDS))
    asked["slow"] = node("ARTVTestSlow", model=["loader", 0], seconds=0.05)
    asked["sample"]["inputs"]["model"] = ["slow", 0]
    driver = Driver(server, (2, {"say": THEN}), (3, {"back": 2}))
    latents, result = made(server, asked, driver)
    assert [problem[:64] for problem in driver.problems] == [
        "the prompts of this run cannot be changed while it goes on; that"
    ]
    told = result.live[-1]["steering"]
    assert (len(latents), told["can_say"], told["first"]) == (8, False, 1)
    assert told["redo"]


def wait_for(socket: ClientConnection, kind: str) -> None:
    """Until the host sends a message of this kind."""
    while True:
        payload = socket.recv(60)
        found = json.loads(payload).get("type") if isinstance(payload, str) else ""
        assert found != "execution_error"
        if found == kind:
            return


def test_prompts_that_another_node_has_changed_stay(in_process: InProcess, host: Host, tmp_path: Path) -> None:
    """What is said later would lack the change."""
    save_random_model(checkpoint_in(tmp_path))
    assert in_process(host, "changed_prompts", tmp_path) == {
        "as scheduled": True, "with a range": True, "concatenated": False, "averaged": False, "combined": False,
    }  # fmt: skip


def test_what_nodes_of_the_host_add_to_prompts_is_told(in_process: InProcess, host: Host, tmp_path: Path) -> None:
    save_random_model(checkpoint_in(tmp_path))
    plain, added = in_process(host, "added_to_prompts", tmp_path)
    assert plain == ""
    assert "has no effect here: an area, a mask, a range of steps; " in added


def test_each_steered_run_changes_what_the_host_finds_in_its_cache(
    in_process: InProcess, host: Host, tmp_path: Path
) -> None:
    assert in_process(host, "steered_again", tmp_path) == [512, 0]


def test_a_paused_run_whose_pages_are_gone_goes_on(in_process: InProcess, host: Host, tmp_path: Path) -> None:
    """After a while, in which they can come back."""
    assert in_process(host, "paused_alone", tmp_path) == [0, 10, 0, 10]


def test_prompts_with_a_cfg_each_stay(server: Server) -> None:
    """Another prompt would need another number, and the same graph would be refused when it is queued again."""
    asked = graph()
    asked["more"] = node("ARTVSamplingOptions", cfg_by_frame="3", eta="auto", s_noise=1.0, mix_mode="after guidance")
    asked["sample"]["inputs"]["options"] = ["more", 0]
    driver = Driver(server, (2, {"say": THEN}), (2, {"back": 1}))
    _, result = made(server, asked, driver)
    assert ["a cfg of its own" in problem for problem in driver.problems] == [True]
    assert len(driver.answers) == 1
    assert result.live[-1]["steering"]["can_say"] is False


def test_the_one_who_queued_a_run_can_name_it_by_its_prompt(server: Server) -> None:
    """As a program does that knows nothing of the page's messages. Another client cannot."""
    own, other = "steer-own", "steer-other"
    base = f"ws://{ADDRESS}:{server.port}/ws?clientId="
    with connect(base + own, max_size=None) as socket, connect(base + other, max_size=None):
        asked = server.post("/prompt", {"prompt": graph(slow=0.2), "client_id": own})["prompt_id"]
        wait_for(socket, "progress")
        assert "no such run" in steer(server, {"client_id": other, "prompt_id": asked, "say": THEN})
        told = steer(server, {"client_id": own, "prompt_id": asked, "node": "sample", "say": THEN})
        assert isinstance(told, dict)
        assert told["waiting"] == THEN or told["said"]
        steer(server, {"client_id": own, "prompt_id": asked, "stop": True})
        wait_for(socket, "execution_success")
