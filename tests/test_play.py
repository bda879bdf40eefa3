"""`artv play`: what is said is soon obeyed, nothing that is sent stops it, and what was played can be made again."""

import asyncio
import dataclasses
import errno
import gc
import json
import os
import queue
import shlex
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import torch
from websockets.exceptions import ConnectionClosed, InvalidStatus

from artv_core import cli
from artv_core.commands import play
from artv_core.commands.play import make_run, play_options, repeat_command, resumed, run_play
from artv_core.commands.play_settings import command_line
from artv_core.method.options import GenerateOptions
from artv_core.play import server, trial
from artv_core.play.answers import MAX_BYTES, answer
from artv_core.play.pace import Pace
from artv_core.play.pictures import encoded
from artv_core.play.server import PlayServer, hosts
from artv_core.play.session import Session
from artv_core.play.trial import FEWEST_STEPS, Trial, decodes_beside, threads_of_torch, tried
from artv_core.play.words import grouped, turned
from artv_core.run.journal import Journal
from artv_core.run.journal_file import JournalReader
from artv_core.run.journal_folder import FOLDER, newest_first, sidecar_path
from artv_core.run.pipeline import Pipeline, load_latents
from artv_core.run.steering import kept_beside
from tests.forked import COMMAND, COMMANDS, python_with
from tests.host.browser import missing, open_browser
from tests.played import (
    QUICK,
    SECONDS,
    Player,
    frames_lost_or_other,
    killed_at_random,
    opened,
    rate_of_play,
)

PROMPT = "a large red circle moving right on a blue background"


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.from_checkpoint("tiny")


def arguments(folder: Path, *more: str) -> Any:
    return cli.build_parser().parse_args(["play", "--prompt", PROMPT, "--seed", "5", "--output", str(folder), *more])


def resume_of(folder: Path, *more: str) -> Any:
    return cli.build_parser().parse_args(["play", "--resume", "--output", str(folder), *more])


def is_unfinished(journal: Path) -> bool:
    kept = kept_beside(journal)
    return kept is not None and not kept.finished


def frames_in(journal: Path) -> int:
    with JournalReader(journal) as reader:
        return reader.num_records


def played_on(pipeline: Pipeline, folder: Path, *more: str) -> Session:
    """The session of a run that goes on."""
    args = resumed(resume_of(folder, *more))
    run = make_run(pipeline, play_options(args, pipeline.model.config), args)
    return Session(pipeline, run, folder, lambda job, path: "", resumed=True)


def shown_until(session: Session, made: int) -> None:
    """Show each frame at once until that many are made or the run ends, and close the session."""
    session.start()
    end = time.monotonic() + SECONDS
    while session.made < made and not session.ended and time.monotonic() < end:
        session.shown(session.made - 1, 0)
        time.sleep(0.01)
    session.close(SECONDS)


@contextmanager
def played(pipeline: Pipeline, folder: Path, *more: str, leave: float = SECONDS) -> Iterator[tuple[Session, str]]:
    """A session and the address of its server, which ends when its page is gone for `leave` seconds."""
    args = arguments(folder, *QUICK, *more)
    folder.mkdir(exist_ok=True)
    run = make_run(pipeline, play_options(args, pipeline.model.config), args)
    session = Session(pipeline, run, folder, lambda job, path: repeat_command(args, job, path))
    addresses: queue.Queue[str] = queue.Queue()
    stopped = threading.Event()
    served = PlayServer(session, stopped, leave_after=leave)
    server = threading.Thread(target=lambda: asyncio.run(served.run(0, addresses.put)), daemon=True)
    server.start()
    session.start()
    try:
        yield session, addresses.get(timeout=SECONDS)
    finally:
        if leave == SECONDS:
            stopped.set()  # else it ends by itself
        server.join(SECONDS)
        session.close(SECONDS)
    assert not server.is_alive()


@contextmanager
def player(pipeline: Pipeline, folder: Path, *more: str) -> Iterator[Player]:
    with played(pipeline, folder, *more, leave=0.2) as (session, address), opened(address) as socket:
        yield Player(session, socket)


def test_what_is_said_counts_from_the_frame_after_the_one_that_is_made(pipeline: Pipeline, tmp_path: Path):
    with player(pipeline, tmp_path) as page:
        page.until(lambda: len(page.frames) > 3)
        for text in ("a small green star moving up", "a large yellow square standing still"):
            made = page.session.made
            assert page.ask(do="say", text=text)["text"] == text
            made_by_now = page.session.made
            page.until(lambda text=text: page.told["prompts"]["prompts"][-1][1] == text)
            start, _ = page.told["prompts"]["prompts"][-1]
            assert made <= start <= made_by_now + 1
        turn = page.ask(do="turn", direction="left")
        assert (turn["to"], turn["text"]) == ("turn", "a large yellow square moving left")


@pytest.mark.parametrize("threads", [1, 2])
def test_pictures_are_the_same_whether_they_are_decoded_beside_or_not(pipeline: Pipeline, tmp_path: Path, threads: int):
    with threads_of_torch(threads):
        assert decodes_beside(pipeline) == (threads == 1)
        with player(pipeline, tmp_path) as page:
            page.until(lambda: len(page.frames) >= 3)
        options = dataclasses.replace(page.session.run.request.options, num_frames=3)
        expected = [encoded(frame.image[0], frame.index) for frame in pipeline.frames(PROMPT, options)]
    assert page.frames[:3] == expected


@pytest.mark.parametrize("threads", [1, 2])
def test_a_picture_that_cannot_be_decoded_ends_the_video(pipeline: Pipeline, tmp_path: Path, threads: int, monkeypatch):
    broken = Pipeline(pipeline.model, pipeline.run_networks)

    def decode(frame):
        if frame.index == 3:
            raise ValueError("no picture of this one")
        return pipeline.decode(frame)

    monkeypatch.setattr(broken, "decode", decode)
    with threads_of_torch(threads), player(broken, tmp_path) as page:
        page.until(lambda: page.told.get("status", {}).get("failed") and len(page.frames) == 3)
        assert page.status["failed"] == "no picture of this one"


def test_the_trial_takes_one_thread_unless_all_are_much_faster(pipeline: Pipeline, monkeypatch):
    def seconds(_pipeline, request):
        assert request.options.steps == FEWEST_STEPS
        return iter([9.0, took[torch.get_num_threads()]])

    options = GenerateOptions(steps=12, seed=1).resolved(pipeline.model.config)
    monkeypatch.setattr(trial, "_seconds", seconds)
    with threads_of_torch(2):
        for took, threads in (({1: 0.11, 2: 0.1}, 1), ({1: 0.15, 2: 0.1}, 2), ({2: 3.0}, 2)):
            found = tried(pipeline, PROMPT, options)
            assert (found.threads, found.steps, found.seconds) == (threads, FEWEST_STEPS, took[threads])
            assert torch.get_num_threads() == 2
    monkeypatch.undo()
    assert 0 < tried(pipeline, PROMPT, options).seconds < SECONDS


@pytest.mark.parametrize(("seconds", "steps"), [(0.01, 12), (0.05, 5), (0.08, 3), (0.1, 2), (3.0, 2)])
def test_steps_that_fit_leave_time_for_slower_frames(seconds: float, steps: int):
    assert Trial(1, 4, seconds).fitting_steps(8.0, 12) == steps
    assert Trial(1, 2, seconds).fitting_steps(8.0, 2) == 2


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.03, "as many as this computer makes in real time"),
        (0.125, "as many as this computer makes in real time"),
        (2.0, "with which this computer makes 0.5 frames a second; the video has 8"),
    ],
)
def test_real_time_is_promised_only_if_it_is_made(seconds: float, words: str):
    assert Trial(1, 2, seconds).in_words(8.0) == words


def test_the_maker_stays_a_few_frames_ahead(pipeline: Pipeline, tmp_path: Path):
    with player(pipeline, tmp_path) as page:
        page.shows = False
        page.until(lambda: len(page.frames) == 2)
        end, made = time.monotonic() + SECONDS, 0
        while made < (made := page.session.made):  # a slow machine makes more frames ahead
            assert time.monotonic() < end
            time.sleep(0.5)
        assert 2 <= made <= page.session.pace.most_ahead == 4
        page.send(do="shown", index=1, take=0)
        page.until(lambda: page.status["shown"] == 1)
        page.send(do="shown", index=10**9, take=0)  # what was never made cannot be shown
        page.send(do="shown", index=3, take=7)
        page.ask(do="check", text="a")
        assert page.session.status()["shown"] == 1


def test_a_pause_begins_no_frame_and_a_step_back_makes_others(pipeline: Pipeline, tmp_path: Path):
    with player(pipeline, tmp_path) as page:
        page.until(lambda: len(page.frames) >= 22)
        page.send(do="pause", on=True)
        page.until(lambda: page.status["paused"])
        time.sleep(0.3)
        made = page.session.made
        time.sleep(0.3)
        assert page.session.made == made, "one frame may have been in the making"
        page.until(lambda: len(page.frames) == made)
        before = list(page.frames)
        page.ask(do="say", text="a small green star moving up")
        position = page.session.status()["shown"]
        first = page.ask(do="back")["frame"]
        assert first == position + 1 - 16
        page.until(lambda: len(page.frames) == first + 1)
        assert page.session.status()["paused"], "it shows what it went back to, and stays paused"
        assert page.frames[:first] == before[:first]
        page.send(do="pause", on=False)
        page.until(lambda: len(page.frames) > first + 3)
        assert page.frames[first] != before[first]
        assert page.told["prompts"]["prompts"][-1] == [first, "a small green star moving up"], "the text stays"
        assert page.ask(do="back")["frame"] == 1
        page.until(lambda: page.status["redo"] == [1])


def test_what_was_played_is_made_again_to_the_bit(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """By the command in the text file, without the journal."""
    with player(pipeline, tmp_path) as page:
        page.until(lambda: len(page.frames) > 4)
        page.ask(do="say", text='a "large" green star, moving up on (a black:1.2) background')
        page.until(lambda: len(page.frames) > 9)
        page.ask(do="back")
        page.until(lambda: page.status["redo"])
        page.ask(do="turn", direction="down")
        page.until(lambda: page.status["take"] == 1 and page.status["shown"] > 6)
        assert page.ask(do="save") == {"kind": "answer", "to": "save"}
        assert "being saved already" in page.ask(do="save").get("problem", "being saved already")
        page.until(lambda: (page.status["saved"] or {}).get("finished"))
        saved, journal = page.status["saved"], page.session.run.recording
        assert journal is not None
    video = Path(saved["name"])
    lines = video.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    (command,) = (line for line in lines if line.startswith("# artv generate"))
    latents, again = tmp_path / "again.safetensors", shlex.split(command.removeprefix("# artv "))
    assert cli.main([*again, "--no-journal", "--save-latents", str(latents)]) == 0, capsys.readouterr().err
    with JournalReader(newest_first(tmp_path / FOLDER)[0]) as reader:
        kept = torch.stack([frame.latent for frame in reader.frames(limit=saved["of"])])
    assert torch.equal(load_latents(latents).latents, kept)
    assert len(kept) > 7
    assert "--redo" in command
    assert Path(again[-1]).read_bytes() == video.read_bytes()


def test_its_rate_can_be_measured_without_a_page(tmp_path: Path):
    rate = rate_of_play(tmp_path, 12, *QUICK, "--prompt", PROMPT, "--seed", "5", warm=2)
    assert 1 < rate < 1000
    with JournalReader(newest_first(tmp_path / FOLDER)[0]) as reader:
        assert len(list(reader.frames())) == 12


BAD = [
    ({"do": "say", "text": ""}, "the prompt is empty"),
    ({"do": "say", "text": " \n"}, "the prompt is empty"),
    ({"do": "say", "text": "a" * 10_000}, "the prompt has 10000 characters; accepted are up to 2000"),
    ({"do": "say", "text": "(fox:1e9)"}, "weight"),
    ({"do": "say", "text": 7}, 'say needs a "text"'),
    ({"do": "turn", "direction": "sideways"}, "accepted are left, right, up, down"),
    ({"do": "turn"}, "accepted are left, right, up, down"),
    ({"do": "back"}, "there is nothing to go back to yet"),
    ({"do": "save"}, "there is no frame to save yet"),
    ({"do": "pause", "on": "yes"}, "true or false"),
    ({"do": "shown", "index": "1", "take": 0}, "the numbers"),
    ({"do": "jump"}, "not a message of the page"),
    ({"do": ["say"]}, "not a message of the page"),
    ([1], "not a message of the page"),
]


def test_bad_input_is_answered_and_nothing_stops(pipeline: Pipeline, tmp_path: Path):
    with player(pipeline, tmp_path) as page:
        page.shows = False
        page.until(lambda: "status" in page.told)
        for message, problem in BAD:
            page.socket.send(json.dumps(message))
            page.told.pop("answer", None)
            page.until(lambda: "answer" in page.told)
            assert problem in page.told["answer"]["problem"], message
        for raw in ("{", "[" * 100_000, b"\0\1", json.dumps({"do": "say", "text": "a"})[:-1]):
            page.socket.send(raw)
            page.told.pop("answer", None)
            page.until(lambda: "answer" in page.told)
            assert "not a message of the page" in page.told["answer"]["problem"]
        unknown = page.ask(do="say", text="a grey sqare moving left")
        assert unknown["advice"] == ["tiny-v3 does not know these words and ignores them: grey, sqare (square?)"]
        assert "ignored: " in page.ask(do="check", text="red circle " * 60)["advice"][0]
        page.shows = True
        if page.frames:
            page.send(do="shown", index=len(page.frames) - 1, take=0)  # none waits to be shown, so more are made
        page.until(lambda: len(page.frames) > 8)
        with suppress(ConnectionClosed):
            page.socket.send("x" * (MAX_BYTES + 1))
            page.until(lambda: False)
        assert page.session.failure is None


def test_a_run_that_has_ended_says_so_and_goes_back(pipeline: Pipeline, tmp_path: Path):
    with player(pipeline, tmp_path, "--frames", "6") as page:
        page.until(lambda: len(page.frames) == 6 and page.status["ended"] and page.status["shown"] == 5)
        for message in ({"do": "say", "text": "a star"}, {"do": "turn", "direction": "up"}):
            assert "the video has ended after 6 frames" in page.ask(**message)["problem"]
        assert page.ask(do="back") == {"kind": "answer", "to": "back", "frame": 1}
        page.ask(do="say", text="a green star")
        page.until(lambda: len(page.frames) == 6 and page.status["ended"] and page.status["take"] == 1)
        frame, text = page.told["prompts"]["prompts"][-1]
        assert text == "a green star"
        assert 1 <= frame < 6, "by when it is said, some frames are made again"
        assert page.session.failure is None
    assert not is_unfinished(newest_first(tmp_path / FOLDER)[0]), "it came to its end"
    with pytest.raises(ValueError, match="is finished; start a new one without --resume"):
        resumed(resume_of(tmp_path))


def test_of_a_thousand_messages_a_second_the_last_counts(pipeline: Pipeline, tmp_path: Path):
    with player(pipeline, tmp_path) as page:
        page.until(lambda: len(page.frames) > 2)
        page.count, began = 0, time.monotonic()
        for number in range(1000):
            page.send(do="say", text=f"an unheard-of thing of the number {number}")
        page.until(lambda: page.told["prompts"]["prompts"][-1][1].endswith(" 999"))
        assert page.count < 500, "answers do not pile up"
        made = page.session.made
        page.until(lambda: page.session.made > made + 4)
        assert len(page.session.run.track.said) < 60 * (1 + time.monotonic() - began)


def test_only_its_own_page_is_answered(pipeline: Pipeline, tmp_path: Path):
    with played(pipeline, tmp_path, leave=0.2) as (_, address):
        for origin in ("http://evil.example", address.replace("127.0.0.1", "evil.example").rstrip("/"), "null"):
            with pytest.raises(InvalidStatus, match="403"):
                opened(address, origin=origin)
        port = address.rstrip("/").rpartition(":")[2]
        for host, path, status in (
            (f"127.0.0.1:{port}", "/", 200),
            (f"localhost:{port}", "/page.js", 200),
            (f"127.0.0.1:{port}", "/session.py", 404),
            (f"127.0.0.1:{port}", "/socket", 403),
            (f"evil.example:{port}", "/", 403),
            ("127.0.0.1:1", "/", 403),
        ):
            client = HTTPConnection("127.0.0.1", int(port), timeout=SECONDS)
            client.request("GET", path, headers={"Host": host})
            assert client.getresponse().status == status, (host, path)
            client.close()
        localhost = address.replace("127.0.0.1", "localhost")
        with opened(localhost, localhost.rstrip("/")):
            pass


def test_browsers_leave_out_the_usual_port():
    assert hosts(8000) == {"127.0.0.1:8000", "localhost:8000"}
    assert hosts(80) == {"127.0.0.1:80", "localhost:80", "127.0.0.1", "localhost"}


def test_a_page_that_is_opened_later_takes_over(pipeline: Pipeline, tmp_path: Path):
    with played(pipeline, tmp_path, leave=0.2) as (session, address), opened(address) as first:
        page = Player(session, first)
        page.until(lambda: len(page.frames) > 3)
        with opened(address) as second:
            with pytest.raises(ConnectionClosed, match="4001"):
                page.until(lambda: False)
            later = Player(session, second)
            seen = len(page.frames) - 1
            later.until(lambda: later.told.get("status", {}).get("shown", 0) > seen + 2)


def test_it_ends_when_the_page_is_gone_and_goes_on_with_resume(pipeline: Pipeline, tmp_path: Path):
    with player(pipeline, tmp_path) as page:
        page.until(lambda: len(page.frames) > 6)
        page.ask(do="say", text="a green star moving up")
        page.until(lambda: page.session.run.track.said)
        said, folder = page.session.run.track.said, tmp_path / FOLDER
    assert page.session.ended is False
    (journal,) = newest_first(folder)
    assert is_unfinished(journal)
    again = resumed(resume_of(tmp_path))
    assert (again.prompt, again.seed, again.steps, again.width, again.sampler) == (PROMPT, 5, 1, 32, "euler")
    made, session = page.session.made, played_on(pipeline, tmp_path)
    shown_until(session, made + 2)
    assert session.run.track.said == said
    assert frames_in(journal) > made


def test_a_run_goes_on_with_the_number_of_frames_that_was_said_last(pipeline: Pipeline, tmp_path: Path):
    with player(pipeline, tmp_path, "--frames", "6") as page:
        page.shows = False
        page.until(lambda: len(page.frames) == 2)
    shown_until(played_on(pipeline, tmp_path, "--frames", "0"), 9)
    (journal,) = newest_first(tmp_path / FOLDER)
    made = frames_in(journal)
    assert resumed(resume_of(tmp_path)).frames == 0, "not 6"
    with pytest.raises(ValueError, match=f"--frames is 8, but the run has {made} frames already; give {made} or more"):
        resumed(resume_of(tmp_path, "--frames", "8"))
    assert is_unfinished(journal)
    shown_until(played_on(pipeline, tmp_path), made + 2)
    shown_until(played_on(pipeline, tmp_path, "--frames", str(made + 20)), made + 20)
    assert frames_in(journal) == made + 20
    assert not is_unfinished(journal)


def test_a_journal_of_which_nothing_is_kept_is_not_taken_for_a_finished_run(pipeline: Pipeline, tmp_path: Path):
    """As if the process was killed between the new journal of a step back and the file beside it."""
    with player(pipeline, tmp_path) as page:
        page.until(lambda: len(page.frames) > 20)
        (before,) = newest_first(tmp_path / FOLDER)
        page.ask(do="back")
        page.until(lambda: page.status["redo"])
    after, _ = newest_first(tmp_path / FOLDER)
    sidecar_path(after).unlink()
    assert resumed(resume_of(tmp_path)).journal == before
    sidecar_path(before).unlink()
    with pytest.raises(ValueError, match="there is no interrupted run in"):
        resumed(resume_of(tmp_path))


def test_a_step_back_before_the_frame_that_a_run_goes_on_from_is_shown(pipeline: Pipeline, tmp_path: Path):
    """Frames before that one are read, not shown, unless a step back makes them again."""
    with player(pipeline, tmp_path) as page:
        page.until(lambda: len(page.frames) > 20)
    session, end = played_on(pipeline, tmp_path), time.monotonic() + SECONDS
    session.start()
    while session.made < 20 and time.monotonic() < end:
        time.sleep(0.01)
    frame = session.back()
    assert 1 <= frame < 20
    while not session.pictures_after(0) and time.monotonic() < end:
        time.sleep(0.01)
    session.close(SECONDS)
    assert session.pictures_after(0)[0].index == frame
    assert session.made <= frame + session.pace.most_ahead + 1


def test_the_command_goes_on_where_it_was_ended(tmp_path: Path):
    """Real processes: by Ctrl-C, and as services are ended."""
    last = run_until(tmp_path, -1, signal.SIGINT, "--prompt", PROMPT, "--seed", "5", *QUICK)
    run_until(tmp_path, last, signal.SIGTERM, "--resume")


def test_a_process_killed_at_random_moments_goes_on_with_the_same_frames(pipeline: Pipeline, tmp_path: Path):
    """Real processes and SIGKILL, with words and steps back; `benchmarks/steering.py` does it ten times."""
    seen = killed_at_random(tmp_path, kills=1)
    assert len(seen) > 6
    assert frames_lost_or_other(pipeline, tmp_path, seen) == (0, 0)


def run_until(folder: Path, before: int, number: int, *words: str) -> int:
    """Play until a signal ends it. `before` and the result are indices of the last frame that there is."""
    words = ("play", "--no-browser", "--output", str(folder), *words)
    running = python_with(*COMMANDS).start(COMMAND, *words)
    with opened(running.stdout.readline().strip()) as socket:
        page = Player(None, socket)  # type: ignore[arg-type]
        page.until(lambda: page.frames)
        assert page.status["shown"] in (before - 1, before), "it begins with the last frame that was made"
        page.until(lambda: page.status["shown"] > before + 2)
        running.send_signal(number)
        with suppress(ConnectionClosed):
            page.until(lambda: False)
    _, err = running.communicate()
    (journal,) = newest_first(folder / FOLDER)
    count = frames_in(journal)
    assert running.returncode == 130, err
    assert f"{count} frames are kept in {folder}; go on with: artv play --resume --output {folder}" in err
    assert "Traceback" not in err
    return count - 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "70000"], "--port is 70000; accepted are 0"),
        (["--frames", "-1"], "--frames is -1"),
        (["--seed", "-1"], "--seed is -1"),
        (["--prompt", " "], "the prompt is empty"),
        (["--resume"], "there is no interrupted run in"),
        (["--resume", "--steps", "4"], "--resume and --steps cannot be used together"),
        (["--resume", "--no-mask"], "--resume and --no-mask cannot be used together"),
        (["--checkpoint", "no such"], "no such"),
    ],
)
def test_what_cannot_be_played_is_told_in_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert cli.main(["play", "--output", str(tmp_path), "--no-browser", *words]) == cli.USER_ERROR
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_port_in_use_is_told(pipeline: Pipeline, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(play, "load_pipeline", lambda args: pipeline)
    with played(pipeline, tmp_path, leave=0.2) as (_, address):
        port = address.rstrip("/").rpartition(":")[2]
        args = arguments(tmp_path / "other", *QUICK, "--no-browser", "--port", port)
        with pytest.raises(ValueError, match=f"cannot use port {port}: .*; choose another --port, or 0"):
            run_play(args)
        with opened(address):
            pass


def test_a_fault_of_the_model_is_told_and_nothing_hangs(tmp_path: Path):
    broken = Pipeline.from_checkpoint("tiny")
    broken.model.null_context.fill_(float("nan"))
    with player(broken, tmp_path) as page:
        page.until(lambda: page.told.get("status", {}).get("failed"))
        assert "not a number" in page.status["failed"]
        assert "the video has stopped: " in page.ask(do="say", text="a star")["problem"]
        assert "the video has stopped: " in page.ask(do="back")["problem"]


def test_a_full_disk_is_told_with_what_play_can_do(pipeline: Pipeline, tmp_path: Path, monkeypatch):
    """There is no `--no-journal` here."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with player(pipeline, tmp_path) as page:
        page.until(lambda: len(page.frames) > 2)
        monkeypatch.setattr(Journal, "_write", full)
        page.until(lambda: page.status["failed"])
        assert page.status["failed"].endswith("run again, or choose another folder (--output)")
    assert str(page.session.failure) == page.status["failed"], "the command line says the same"


def test_the_command_in_the_text_file_suits_the_shell():
    words = [
        "artv",
        "--prompts",
        r"C:\My videos\play.txt",
        "--redo",
        "3:5",
        r"--base=C:\R&D\sd.safetensors",
        "-o",
        r"C:\a.mp4",
    ]
    assert command_line(words, windows=True) == (
        r'artv --prompts "C:\My videos\play.txt" --redo 3:5 "--base=C:\R&D\sd.safetensors" -o C:\a.mp4'
    )
    words = ["artv", "--prompts", "/my videos/it's.txt"]
    assert shlex.split(command_line(words, windows=False)) == words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red circle moving right fast on a blue background", "a red circle moving up fast on a blue background"),
        ("a red circle standing still on a blue background", "a red circle moving up on a blue background"),
        ("a fox bouncing in a forest", "a fox moving up in a forest"),
        ("a fox moving down left slowly", "a fox moving up slowly"),
        ("a fox moving down and right fast", "a fox moving up fast"),
        ("a fox moving left and up in a forest", "a fox moving up in a forest"),
        ("a fox moving right and a red circle", "a fox moving up and a red circle"),
        ("a red circle moving", "a red circle moving up"),
        ("a red circle on a blue background", "a red circle moving up on a blue background"),
        ("a fox", "a fox moving up"),
    ],
)
def test_the_direction_of_a_motion_is_changed_in_the_text(text: str, expected: str):
    assert turned(text, "up") == expected
    assert turned(expected, "up") == expected


def test_words_are_in_groups():
    groups = dict(grouped(["a", "fox", "red", "up", "left", "star", "on"]))
    assert groups == {
        "things": ["fox", "star"],
        "colours": ["red"],
        "movement": ["left", "up"],
        "small words": ["a", "on"],
    }
    assert next(iter(groups)) == "things"
    assert list(dict(grouped(["a", "up", *map(str, range(21))]))) == ["movement", "small words", "things"]
    assert grouped([]) == []


@pytest.mark.parametrize(
    ("seconds", "ahead", "keeps_up"), [(0.01, 2, True), (0.12, 3, True), (0.15, 4, False), (5.0, 4, False)]
)
def test_slower_models_are_further_ahead(seconds: float, ahead: int, keeps_up: bool):
    pace = Pace(8.0)
    assert (pace.rate, pace.ahead, pace.keeps_up) == (None, 4, True)
    for _ in range(20):
        pace.made(seconds)
    assert (pace.ahead, pace.keeps_up) == (ahead, keeps_up)
    assert pace.rate == pytest.approx(1 / seconds)


def test_the_garbage_collector_does_not_pause_a_video(pipeline: Pipeline, tmp_path: Path, monkeypatch):
    """What was there when the video began is left out of collections, and looked at again after it."""
    left: list[int] = []

    def serve(session: Session, args: Any) -> int:
        left.append(len(gc.get_objects()))
        return 0

    monkeypatch.setattr(play, "_serve", serve)
    monkeypatch.setattr(play, "load_pipeline", lambda args: pipeline)
    before = len(gc.get_objects())
    assert run_play(arguments(tmp_path, *QUICK)) == 0
    assert left[0] < before / 10
    assert len(gc.get_objects()) > before / 2
    assert gc.get_freeze_count() == 0


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_the_page_in_a_browser(pipeline: Pipeline, tmp_path: Path):
    """What a person does: looks, types, presses keys. Keys are letters while one types."""
    with played(pipeline, tmp_path, leave=0.2) as (session, address), open_browser() as context:
        page, faults = context.new_page(), []
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(address)
        strip, field, notes = page.locator("#strip li"), page.locator("#prompt"), page.locator("#notes")
        page.wait_for_function("() => /frame ([5-9]|\\d\\d)/.test(document.getElementById('clock').textContent)")
        assert field.input_value() == PROMPT
        assert strip.count() == 1
        page.keyboard.press("Enter")  # into the field, its text selected
        page.keyboard.type("a grey star rsr")
        notes.get_by_text("tiny-v3 does not know these words and ignores them: grey, rsr").wait_for()
        page.keyboard.press("Backspace")
        page.keyboard.press("Enter")
        strip.nth(1).wait_for()
        assert session.text == "a grey star rs", "R and S are letters there"
        assert session.status()["take"] == 0
        page.keyboard.press("ArrowLeft")
        strip.last.get_by_text("a grey star rs moving left").wait_for()
        page.keyboard.press("Space")
        page.locator("#pause").get_by_text("Go on").wait_for()
        page.wait_for_timeout(400)
        clock = page.locator("#clock").text_content()
        page.wait_for_timeout(400)
        assert page.locator("#clock").text_content() == clock
        page.keyboard.press("r")
        page.wait_for_function("(clock) => document.getElementById('clock').textContent !== clock", arg=clock)
        page.keyboard.press("Space")
        page.wait_for_function("() => document.querySelector('#strip i:not(:empty)')")
        page.get_by_role("button", name="yellow", exact=True).click()
        assert field.input_value().endswith(" yellow")
        page.keyboard.press("Escape")
        assert field.input_value() == "a grey star rs moving left"
        page.keyboard.press("s")
        notes.get_by_text("with its prompts beside it").wait_for()
        page.locator("#prompt").fill("a" * 10_000)
        page.keyboard.press("Enter")
        notes.get_by_text("The prompt has 10000 characters; it can have 2000").wait_for()
        assert page.evaluate("getComputedStyle(document.getElementById('picture')).imageRendering") == "pixelated"
        page.set_viewport_size({"width": 700, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= 700
        assert not faults
    assert list(tmp_path.glob("play-*.mp4"))
    assert session.failure is None


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_the_page_keeps_a_prompt_that_is_not_taken_and_says_why_it_stands_still(
    pipeline: Pipeline, tmp_path: Path, monkeypatch
):
    def answered(session: Session, message: str | bytes) -> Any:
        if json.loads(message)["do"] == "say":
            session.pause(not session.status()["paused"])  # so that the page is told a status before the answer
        return answer(session, message)

    monkeypatch.setattr(server, "answer", answered)
    with played(pipeline, tmp_path) as (session, address), open_browser() as context:
        page = context.new_page()
        page.goto(address)
        field, notes, veil = page.locator("#prompt"), page.locator("#notes"), page.locator("#veil")
        page.wait_for_function("() => /frame [3-9]/.test(document.getElementById('clock').textContent)")
        for text in ("a fox (bold:1e9)", "a green star"):
            page.keyboard.press("Enter")
            page.keyboard.type(text)
            page.keyboard.press("Enter")
            if text != "a green star":
                notes.get_by_text("weight").wait_for()
                assert field.input_value() == text
        page.locator("#strip").get_by_text("a green star").wait_for()
        page.keyboard.press("ArrowLeft")
        page.locator("#strip").get_by_text("a green star moving left").wait_for()
        assert field.input_value() == "a green star moving left"

        page.keyboard.press("Space")
        page.locator("#pause").get_by_text("Go on").wait_for()
        page.wait_for_timeout(300)  # so that the pictures made ahead are there
        clock = page.locator("#clock").text_content()
        with opened(address):
            veil.get_by_text("This video is shown in another page now").wait_for()
            page.keyboard.press("Space")
            page.wait_for_function("(clock) => document.getElementById('clock').textContent !== clock", arg=clock)
            assert veil.is_visible()
            page.keyboard.press("Enter")
            page.keyboard.type("a blue square")
            page.keyboard.press("Enter")
            notes.get_by_text("The prompt was not sent, because there is no connection").wait_for()
            assert field.input_value() == "a blue square"
        assert session.text == "a green star moving left"
