"""A real ComfyUI server for tests: found, started with folders of its own, asked over HTTP, and always stopped."""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .websocket import TEXT, WebSocket

PACK = Path(__file__).resolve().parents[2]
LINKED_AS = "ComfyUI-ARTV"
START_SECONDS = 180
PROMPT_SECONDS = 300
ADDRESS = "127.0.0.1"

# What the host wants and can do without: it then lacks its audio nodes.
OPTIONAL_REQUIREMENTS = {"torchaudio"}

Graph = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Host:
    """A ComfyUI folder and the Python that runs it: its own `.venv`, else the one that runs the tests."""

    root: Path

    @property
    def python(self) -> str:
        own = self.root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        return str(own) if own.is_file() else sys.executable

    @property
    def version(self) -> str:
        text = (self.root / "comfyui_version.py").read_text(encoding="utf-8")
        return re.search(r'__version__ = "(.+)"', text)[1]  # type: ignore[index]

    def missing(self) -> list[str]:
        """Requirements of the host that its Python lacks; versions are not looked at."""
        lines = (self.root / "requirements.txt").read_text(encoding="utf-8").splitlines()
        names = [match[0] for line in lines if (match := re.match(r"[A-Za-z0-9_.-]+", line.strip()))]
        check = (
            "import importlib.metadata as m, sys\n"
            "for name in sys.argv[1:]:\n"
            "    try: m.version(name)\n"
            "    except m.PackageNotFoundError: print(name)\n"
        )
        found = subprocess.run([self.python, "-c", check, *names], capture_output=True, text=True, check=True)
        return [name for name in found.stdout.split() if name not in OPTIONAL_REQUIREMENTS]


def find_hosts() -> list[Host]:
    """Every ComfyUI folder in $COMFYUI_PATH (several are separated as in $PATH), else comfy-cli's default place."""
    named = [Path(part) for part in os.environ.get("COMFYUI_PATH", "").split(os.pathsep) if part]
    folders = named or [Path.home() / "comfy" / "ComfyUI"]
    return [Host(folder.resolve()) for folder in folders if (folder / "main.py").is_file()]


@dataclass
class Result:
    """What the server told of one prompt."""

    status: str = ""  # "success", "error", "interrupted" or "refused"
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)  # node -> what it shows
    executed: list[str] = field(default_factory=list)  # nodes that really ran, in order
    progress: list[tuple[str, int, int]] = field(default_factory=list)  # node, value, max
    previews: int = 0
    error: dict[str, Any] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """The error as the user reads it on the node."""
        return str(self.error.get("exception_message", self.error)).strip()


class Server:
    """Context manager: a running server with an empty base folder, in which this pack is linked."""

    def __init__(self, host: Host, base: Path, *extra_nodes: Path, arguments: tuple[str, ...] = ()) -> None:
        self.host, self.base, self.arguments = host, base, arguments
        self.log = base / "server.log"
        self.port = _free_port()
        for folder in ("models/artv", "models/checkpoints", "custom_nodes", "input", "output"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        for name, pack in {LINKED_AS: PACK, **{pack.name: pack for pack in extra_nodes}}.items():
            (base / "custom_nodes" / name).symlink_to(pack, target_is_directory=True)

    def __enter__(self) -> "Server":
        command = [self.host.python, "main.py", "--listen", ADDRESS, "--port", str(self.port)]
        command += ["--cpu", "--disable-api-nodes", "--preview-method", "auto"]
        command += ["--database-url", "sqlite:///:memory:", "--base-directory", str(self.base), *self.arguments]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self.host.root, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            self._wait_until_up()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{ADDRESS}:{self.port}{path}", timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, data: Mapping[str, Any]) -> Any:
        body = json.dumps(data).encode()
        request = urllib.request.Request(
            f"http://{ADDRESS}:{self.port}{path}", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def run(self, graph: Graph, on_progress: Callable[[Result], None] | None = None, **extra: Any) -> Result:
        """Queue an API-format prompt and listen until it is over. `on_progress` may look in, and interrupt."""
        client = secrets.token_hex(8)
        listener = WebSocket(ADDRESS, self.port, f"/ws?clientId={client}", PROMPT_SECONDS)
        try:
            try:
                queued = self.post("/prompt", {"prompt": graph, "client_id": client, "extra_data": extra})
            except urllib.error.HTTPError as refusal:
                return Result("refused", error=json.load(refusal))
            return self._listen(listener, queued["prompt_id"], on_progress)
        finally:
            listener.close()

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def output_file(self, shown: Mapping[str, Any]) -> Path:
        """The file behind one entry of a node's output."""
        return self.base / shown["type"] / shown["subfolder"] / shown["filename"]

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def _listen(self, listener: WebSocket, prompt: str, on_progress: Callable[[Result], None] | None) -> Result:
        result = Result()
        for kind, payload in listener.messages():
            if kind != TEXT:
                result.previews += 1
                continue
            message = json.loads(payload)
            data = message.get("data", {})
            if data.get("prompt_id") != prompt:
                continue
            _note(result, message["type"], data)
            if on_progress is not None and message["type"] == "progress":
                on_progress(result)
            if result.status:
                return result
        raise ConnectionError(f"the server went away; see {self.log}")

    def _wait_until_up(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended at once:\n{self.log_text()[-3000:]}")
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(0.5)
        raise TimeoutError(f"ComfyUI was not up after {START_SECONDS} s:\n{self.log_text()[-3000:]}")

    def _stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                if os.name == "posix":
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.kill()
                self._process.wait()


def _note(result: Result, kind: str, data: dict[str, Any]) -> None:
    if kind == "executing" and data.get("node"):
        result.executed.append(data["node"])
    elif kind == "executed" and data.get("output"):
        result.outputs[data["node"]] = data["output"]
    elif kind == "progress":
        result.progress.append((data.get("node") or "", data["value"], data["max"]))
    elif kind in ("execution_success", "execution_error", "execution_interrupted"):
        result.status = kind.removeprefix("execution_")
        result.error = data if kind == "execution_error" else {}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return probe.getsockname()[1]
