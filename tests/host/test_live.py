"""What the sampler tells pages that watch: by the socket, as the page gets it, without a page."""

import base64
import io
import json
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from websockets.sync.client import ClientConnection, connect

from artv_core.commands.comfyui_server import ADDRESS, Graph, Host, Result, Server
from artv_core.media import read_video

from .conftest import InProcess
from .graphs import node, text_to_video, with_video

PROMPT = "a red circle moving right"
FRAMES = 6
WORKFLOW = {"workflow": {"id": "8a6b9d5e-0000-4000-8000-000000000001", "nodes": []}}


def graph(**sampler: Any) -> Graph:
    return text_to_video(PROMPT, vae=["loader", 2], **{"frames": FRAMES, "seed": 4000} | sampler)


def watched(server: Server, graph: Graph) -> Result:
    result = server.run(graph, watch=True, extra_pnginfo=WORKFLOW)
    assert result.status == "success", result.message
    return result


@contextmanager
def client(server: Server, name: str) -> Iterator[ClientConnection]:
    with connect(f"ws://{ADDRESS}:{server.port}/ws?clientId={name}", max_size=None) as socket:
        yield socket


def told(socket: ClientConnection, run: str) -> dict[str, Any]:
    """The next that is told of a run."""
    while True:
        payload = socket.recv(60)
        message = json.loads(payload) if isinstance(payload, str) else {}
        if message.get("type") == "artv.live" and message["data"]["run"] == run:
            return message["data"]


def test_a_page_that_watches_is_told_of_every_frame(server: Server) -> None:
    result = watched(server, graph(seed=4001))
    states = [message["state"] for message in result.live]
    assert states[-1] == "finished"
    assert set(states[:-1]) == {"running"}
    assert {(m["node"], m["workflow"], m["total"]) for m in result.live} == {
        ("sample", WORKFLOW["workflow"]["id"], FRAMES)
    }
    done = [message["done"] for message in result.live]
    assert done == sorted(done)
    assert done[-1] == FRAMES
    assert [reading[0] for message in result.live for reading in message["readings"]] == list(range(FRAMES))
    assert result.live[-1]["seconds_per_frame"] > 0
    assert result.live[-1]["seconds_left"] == 0
    assert not any(message["whole"] for message in result.live)


def test_pictures_come_before_half_of_the_frames_and_are_those_of_the_video(server: Server) -> None:
    result = watched(server, with_video(graph(seed=4002, frames=12)))
    first = next(message for message in result.live if message["pictures"])
    assert first["done"] <= 6
    pictures = {picture["index"]: picture for message in result.live for picture in message["pictures"]}
    assert sorted(pictures) == list(range(12))  # those that were left out while sampling come as they are decoded
    frames = read_video(server.output_file(result.outputs["video"]["images"][0]))
    for index, picture in pictures.items():
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture["jpeg"]))), dtype=float)
        true = frames[index].movedim(0, -1).numpy().astype(float)
        assert shown.shape == (64, 64, 3)
        assert np.abs(shown - true).mean() < 8
    masks = [picture["mask"] for index, picture in pictures.items() if index > 0]
    assert all((mask["width"], mask["height"]) == (8, 8) for mask in masks)
    assert all(len(base64.b64decode(mask["values"])) == 64 for mask in masks)


def test_a_size_far_from_the_checkpoints_is_told_with_what_to_do(server: Server) -> None:
    picture = {"picture": node("EmptyImage", width=128, height=128, batch_size=1, color=255)}
    picture["encode"] = node("VAEEncode", pixels=["picture", 0], vae=["loader", 2])
    given = graph(seed=4100, frames=2, references=["encode", 0]) | picture
    typed, near = (graph(seed=4101, frames=1, width=width, height=64) for width in (128, 96))
    told = [watched(server, one).live[0]["size_advice"] for one in (given, typed, near)]
    assert told == [{"made_for": [64, 64], "given": True}, {"made_for": [64, 64], "given": False}, None]
    log = server.log_text()
    assert "the given picture is 128x128 pixels, and this checkpoint is made for 64x64" in log
    assert "the video is 128x64 pixels" in log
    assert "96x64" not in log


def test_the_hosts_preview_goes_to_those_that_do_not_watch_only(server: Server) -> None:
    assert watched(server, graph(seed=4003)).previews == 0
    unwatched = server.run(graph(seed=4004))
    assert unwatched.previews > 0
    assert unwatched.live == []


def test_a_page_that_comes_later_is_told_all(server: Server) -> None:
    result = watched(server, graph(seed=4005))
    run = result.live[-1]["run"]
    with client(server, "later") as socket:
        assert server.post("/artv/live", {"client_id": "later", "runs": [run]})["runs"] == [run]
        message = told(socket, run)
    assert message["whole"]
    assert message["state"] == "finished"
    assert [reading[0] for reading in message["readings"]] == list(range(FRAMES))
    pictures = [picture["index"] for sent in result.live for picture in sent["pictures"]]
    assert [picture["index"] for picture in message["pictures"]] == pictures


def test_a_page_that_was_loaded_anew_is_told_nothing_before_it_listens(server: Server) -> None:
    with client(server, "reloaded"):
        server.post("/artv/live", {"client_id": "reloaded"})
    with client(server, "reloaded") as socket:
        server.post("/prompt", {"prompt": graph(seed=4011), "client_id": "reloaded"})
        kinds = []
        while "execution_success" not in kinds:
            payload = socket.recv(60)
            kinds.append(json.loads(payload)["type"] if isinstance(payload, str) else "preview")
    assert "artv.live" not in kinds
    assert "preview" not in kinds  # it will listen in a moment, and a second preview would stay on the node


def test_another_page_is_told_nothing_unless_it_names_the_run(server: Server) -> None:
    with client(server, "mine") as mine, client(server, "other") as other, client(server, "friend") as friend:
        for name in ("mine", "other"):
            server.post("/artv/live", {"client_id": name})
        queue(server, "mine", graph(seed=4006, frames=40, steps=20))
        run = live(mine)["run"]
        assert server.post("/artv/live", {"client_id": "friend", "runs": [run, "no such run"]})["runs"] == [run]
        assert told(friend, run)["whole"]
        while not told(friend, run)["pictures"]:
            pass
        server.interrupt()
        assert finished(mine, run)["state"] == finished(friend, run)["state"] == "stopped"
        assert server.post("/artv/live", {"client_id": "other"})["runs"] == []
        assert kinds_within(other, 1) <= {"status", "feature_flags"}


def test_a_page_finds_its_run_again_by_the_same_client_id_and_no_other_does(server: Server) -> None:
    with client(server, "gone") as leaving:
        server.post("/artv/live", {"client_id": "gone"})
        queue(server, "gone", graph(seed=4012, frames=40, steps=20))
        run = live(leaving)["run"]
    with client(server, "stranger") as stranger, client(server, "gone") as back:
        assert server.post("/artv/live", {"client_id": "stranger"})["runs"] == []
        assert server.post("/artv/live", {"client_id": "gone"})["runs"][-1] == run
        assert told(back, run)["whole"]
        assert told(back, run)["state"] == "running"
        server.interrupt()
        assert finished(back, run)["state"] == "stopped"
        assert "artv.live" not in kinds_within(stranger, 1)


def test_a_cached_result_is_traced_to_the_run_that_made_it(server: Server) -> None:
    with client(server, "cached") as socket, client(server, "curious"):
        server.post("/artv/live", {"client_id": "cached"})
        first = made(server, socket, graph(seed=4013))
        second = made(server, socket, graph(seed=4014))
        assert first["run"] != second["run"]
        answer = server.post("/artv/recall", {"client_id": "cached", "prompt_id": first["prompt_id"]})
        assert answer == {"workflow": WORKFLOW["workflow"]["id"], "runs": {"sample": first["run"]}}
        again = queue(server, "cached", graph(seed=4014))  # all hosts keep what the last prompt gave
        wait_until_done(socket, again)
        answer = server.post("/artv/recall", {"client_id": "cached", "prompt_id": again})
        assert answer["runs"] == {"sample": second["run"]}
        message = told(socket, second["run"])
        assert (message["whole"], message["state"], message["done"]) == (True, "finished", FRAMES)
        copied = queue(server, "cached", renamed(graph(seed=4014)))
        wait_until_done(socket, copied)
        answer = server.post("/artv/recall", {"client_id": "cached", "prompt_id": copied})
        assert answer["runs"] == {"sample, copied": second["run"]}
        stranger = server.post("/artv/recall", {"client_id": "curious", "prompt_id": again})
        assert stranger["runs"] == {"sample": None}


@pytest.mark.parametrize("prompt", [None, 7, "no such prompt"])
def test_a_prompt_that_is_not_there_cannot_be_recalled(server: Server, prompt: Any) -> None:
    with client(server, "asks"), pytest.raises(urllib.error.HTTPError) as refusal:
        server.post("/artv/recall", {"client_id": "asks", "prompt_id": prompt})
    assert "prompt_id" in json.load(refusal.value)["error"]


def queue(server: Server, name: str, graph: Graph) -> str:
    """Returns the id of the prompt."""
    extra = {"extra_pnginfo": WORKFLOW}
    return server.post("/prompt", {"prompt": graph, "client_id": name, "extra_data": extra})["prompt_id"]


def renamed(graph: Graph) -> Graph:
    """As a graph of copies of its nodes."""
    names = {name: f"{name}, copied" for name in graph}

    def to_copy(value: Any) -> Any:
        return [names[value[0]], value[1]] if isinstance(value, list) else value

    return {
        names[name]: {**one, "inputs": {key: to_copy(value) for key, value in one["inputs"].items()}}
        for name, one in graph.items()
    }


def made(server: Server, socket: ClientConnection, graph: Graph) -> dict[str, Any]:
    """The last that is told of a run that the client "cached" queues."""
    queue(server, "cached", graph)
    return finished(socket, live(socket)["run"])


def finished(socket: ClientConnection, run: str) -> dict[str, Any]:
    """The last that is told of a run, however it ended."""
    while (message := told(socket, run))["state"] == "running":
        pass
    return message


def wait_until_done(socket: ClientConnection, prompt: str) -> None:
    """Until the host says that a prompt was run."""
    done = {"type": "execution_success", "prompt_id": prompt}
    while True:
        payload = socket.recv(60)
        message = json.loads(payload) if isinstance(payload, str) else {}
        if {"type": message.get("type"), "prompt_id": message.get("data", {}).get("prompt_id")} == done:
            return


def kinds_within(socket: ClientConnection, seconds: float) -> set[str]:
    """Of all messages that are there or come within a while."""
    kinds: set[str] = set()
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            payload = socket.recv(left)
        except TimeoutError:
            break
        kinds.add(json.loads(payload)["type"] if isinstance(payload, str) else "picture")
    return kinds


def live(socket: ClientConnection) -> dict[str, Any]:
    """The next that is told of any run that goes on."""
    while True:
        payload = socket.recv(60)
        message = json.loads(payload) if isinstance(payload, str) else {}
        if message.get("type") == "artv.live" and not message["data"]["whole"]:
            return message["data"]


def test_pauses_do_not_count_for_the_pace(in_process: InProcess, host: Host, tmp_path: Path) -> None:
    assert in_process(host, "pace", tmp_path) == [1, 1, 1]


def test_a_long_request_is_refused_and_none_is_read_where_the_server_would_wait(
    in_process: InProcess, host: Host, tmp_path: Path
) -> None:
    """Also one whose length is not told before."""
    too_long = [400, {"error": "the request has more than 1000 bytes, the most that is accepted; send less"}]
    assert in_process(host, "requests", tmp_path) == {
        "short": [200, {"answer": {"a": 1}}], "long": too_long,
        "chunked": [200, {"answer": {}}], "long, chunked": too_long, "beside": True,
    }  # fmt: skip


def test_frames_of_a_journal_are_known_and_say_nothing_of_the_pace(server: Server) -> None:
    journal = {"journal": node("ARTVJournalSettings", mode="on", start_over=False, redo="")}
    wired = {"seed": 4007, "journal": ["journal", 0]}
    watched(server, graph(frames=4, **wired) | journal)
    result = watched(server, graph(frames=6, **wired) | journal)
    assert result.live[-1]["known"] == 4
    assert [reading[0] for message in result.live for reading in message["readings"]] == list(range(6))


@pytest.mark.parametrize("kind", ["CLIPTextEncode", "ARTVMultiPromptScheduler"])
def test_words_that_the_model_does_not_know_are_told_once(server: Server, checkpoint: str, kind: str) -> None:
    if not checkpoint.endswith("(shipped)"):
        pytest.skip("the shipped checkpoint, which knows few words, is not there")
    creature = f"{kind.lower()}asaur"  # no other test writes this to the log
    graph = text_to_video(f"two {creature}, a (red circels:1.2)", checkpoint, frames=3, seed=4013, videos=2)
    if kind != "CLIPTextEncode":
        scheduler = {"pre_text": "a", "app_text": "", "blend_frames": 0, "fps": 8.0, "num_frames": "auto"}
        text = f"0: two {creature}\n2: red circels"
        graph["text"] = node(kind, clip=["loader", 1], text=text, segment_frames=16, **scheduler)
    result = watched(server, graph)
    unknown = result.live[-1]["unknown"]
    shown = creature if len(creature) <= 24 else f"{creature[:24]}..."
    assert unknown["words"] == [["two", None], [shown, None], ["circels", "circle"]]
    assert unknown["more"] == 0
    told = f"{unknown['model']} does not know these words and ignores them: two, {shown}, circels (circle?)"
    assert server.log_text().count(told) == 1


def test_nothing_is_told_of_words_that_all_are_known(server: Server, checkpoint: str) -> None:
    for graph in (text_to_video(PROMPT, checkpoint, frames=2), text_to_video("an unknown word", frames=2, seed=4014)):
        assert watched(server, graph).live[-1]["unknown"] is None


def test_the_page_asks_which_words_are_unknown(server: Server) -> None:
    texts = ["(dogs:1.2), red // a comment", "embedding:thing a {red|blue} circle"]
    answer = server.post("/artv/words", {"texts": texts, "vocabulary": ["a", "red", "circle", "dog"]})
    assert answer == {"words": [["dogs", "dog"], ["blue", None]], "more": 0}
    assert server.post("/artv/words", {"texts": texts, "vocabulary": []}) == {"words": [], "more": 0}
    many = server.post("/artv/words", {"texts": ["b c d e f g h i j k"], "vocabulary": ["a"]})
    assert (len(many["words"]), many["more"]) == (8, 2)


@pytest.mark.parametrize("question", [{}, {"texts": "a", "vocabulary": []}, {"texts": ["a"], "vocabulary": [1]}])
def test_a_bad_question_about_words_is_refused(server: Server, question: dict[str, Any]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        server.post("/artv/words", question)
    assert "is not a list of texts" in json.load(refusal.value)["error"]


def test_words_that_look_like_a_time_are_told_in_the_log(server: Server) -> None:
    settings = {"pre_text": "", "app_text": "", "blend_frames": 0, "fps": 8.0, "num_frames": "auto"}
    graph = text_to_video(frames=2, seed=4015)
    graph["text"] = node("ARTVMultiPromptScheduler", clip=["loader", 1], text="1; a", segment_frames=16, **settings)
    watched(server, graph)
    told = (
        "ARTV Multi-Prompt Scheduler: line 1, column 1: '1; a' is read as words; to start a prompt at 1, write '1: a'"
    )
    assert told in server.log_text()


def test_without_a_vae_there_are_masks_and_no_pictures(server: Server) -> None:
    result = watched(server, text_to_video(PROMPT, frames=3, seed=4008))
    pictures = [picture for message in result.live for picture in message["pictures"]]
    assert pictures
    assert {picture["jpeg"] for picture in pictures} == {None}
    assert pictures[-1]["mask"]
    assert {message["blind"] for message in result.live} <= {"vae", None}
    assert result.live[-1]["blind"] == "vae"


def test_who_wants_no_pictures_gets_numbers_only(server: Server) -> None:
    with client(server, "numbers") as socket:
        server.post("/artv/live", {"client_id": "numbers", "pictures": False})
        server.post("/prompt", {"prompt": graph(seed=4010), "client_id": "numbers"})
        messages = [live(socket)]
        while messages[-1]["state"] == "running":
            messages.append(live(socket))
    assert messages[-1]["state"] == "finished"
    assert messages[-1]["done"] == FRAMES
    assert {message["blind"] for message in messages} == {"off"}
    assert not any(message["pictures"] for message in messages)
    assert sum(len(message["readings"]) for message in messages) == FRAMES


def test_a_run_that_fails_says_so(server: Server) -> None:
    failing = graph(seed=4009, model=["full", 0]) | {"full": node("ARTVTestOutOfMemory", model=["loader", 0], after=9)}
    result = server.run(failing, watch=True)
    assert result.status == "error"
    assert result.live[-1]["state"] == "failed"
    assert 0 < result.live[-1]["done"] < FRAMES
    assert "memory" in result.live[-1]["problem"]
    assert "\n" not in result.live[-1]["problem"]


def test_a_run_whose_weights_cannot_be_loaded_says_so(server: Server) -> None:
    failing = graph(seed=4011, model=["full", 0]) | {"full": node("ARTVTestNoRoom", model=["loader", 0])}
    with client(server, "loading") as socket:
        server.post("/artv/live", {"client_id": "loading"})
        server.post("/prompt", {"prompt": failing, "client_id": "loading"})
        messages = [live(socket)]
        with pytest.raises(urllib.error.HTTPError) as refusal:
            server.post("/artv/steer", {"run": messages[0]["run"], "pause": True})
        assert "still loading" in json.load(refusal.value)["error"]
        while messages[-1]["state"] == "running":
            messages.append(live(socket))
    assert {message["done"] for message in messages} == {0}
    assert messages[-1]["state"] == "failed"
    assert "memory" in messages[-1]["problem"]


@pytest.mark.parametrize("runs", [7, ["one", 7], ["x"] * 65])
def test_runs_are_named_by_a_list_of_ids(server: Server, runs: Any) -> None:
    with client(server, "names"), pytest.raises(urllib.error.HTTPError) as refusal:
        server.post("/artv/live", {"client_id": "names", "runs": runs})
    assert "up to 64" in json.load(refusal.value)["error"]


@pytest.mark.parametrize("question", [{}, {"client_id": 7}, {"client_id": ""}, {"client_id": "nobody"}])
def test_who_watches_must_say_who_it_is(server: Server, question: dict[str, Any]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        server.post("/artv/live", question)
    assert refusal.value.code == 400
    assert "client_id" in json.load(refusal.value)["error"]
