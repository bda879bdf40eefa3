"""Runs a ComfyUI as a separate program: finds it, starts it with its own folders, talks to it over HTTP, and always
stops it.

Used by `artv demo`, the tests and the benchmarks. Nothing of the host is imported.
"""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

PACK = Path(__file__).resolve().parents[2]
"""This repository, if the package is inside one. Without `nodes/` in it there are no nodes to link into a host."""

LINKED_AS = "ComfyUI-ARTV"
START_SECONDS = 180
PROMPT_SECONDS = 600
"""How long a server may be silent before it counts as stuck."""

ADDRESS = "127.0.0.1"

# Packages that the host lists but can run without; it then has no audio nodes.
OPTIONAL_REQUIREMENTS = {"torchaudio"}

Graph = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Host:
    """A ComfyUI folder and the Python that runs it: the one in its `.venv`, else the current one."""

    root: Path

    @property
    def python(self) -> str:
        """The path of the Python interpreter."""
        own = self.root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        return str(own) if own.is_file() else sys.executable

    @property
    def version(self) -> str:
        """The version, such as "0.3.64"; "unknown" if the folder does not say."""
        path = self.root / "comfyui_version.py"
        found = re.search(r'__version__ = "(.+)"', path.read_text(encoding="utf-8")) if path.is_file() else None
        return found[1] if found else "unknown"

    def missing(self) -> list[str]:
        """Packages the host requires that its Python lacks. Versions are not checked."""
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
    """Every ComfyUI in $COMFYUI_PATH (several are separated as in $PATH); without it, the one that comfy-cli
    installed."""
    return _hosts_in(_named_folders() or [Path.home() / "comfy" / "ComfyUI"])


def find_host(path: Path | None = None) -> Host | None:
    """The ComfyUI at `path`. Without `path`, the first one found in $COMFYUI_PATH, among the folders that contain this
    repository or the working folder, and in comfy-cli's folder. Raises ValueError if there is none at `path`."""
    if path is not None:
        if not _is_host(path):
            raise ValueError(f"there is no ComfyUI at {path}; give the folder that contains its main.py and comfy_api")
        return Host(path.resolve())
    around = [*PACK.parents, Path.cwd(), *Path.cwd().parents]
    found = _hosts_in(_named_folders()) or _hosts_in(around) or find_hosts()
    return found[0] if found else None


def _named_folders() -> list[Path]:
    return [Path(part) for part in os.environ.get("COMFYUI_PATH", "").split(os.pathsep) if part]


def _hosts_in(folders: Iterable[Path]) -> list[Host]:
    return [Host(folder.resolve()) for folder in folders if _is_host(folder)]


def _is_host(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "comfy_api").is_dir()


@dataclass
class Result:
    """What the server reported about one prompt."""

    status: str = ""  # "success", "error", "interrupted" or "refused"
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)  # node -> what it displays
    executed: list[str] = field(default_factory=list)  # nodes that really ran, in order
    progress: list[tuple[str, int, int]] = field(default_factory=list)  # node, value, max
    previews: int = 0
    live: list[dict[str, Any]] = field(default_factory=list)  # the sampler's messages to pages that watch the run
    error: dict[str, Any] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """The error as the node shows it to the user."""
        return str(self.error.get("exception_message", self.error)).strip()


class Server:
    """Context manager: a running server with its own base folder, `base`, into which this pack is linked.

    `processor` is the host's command-line option that selects the processor; "" leaves the choice to the host. Raises
    RuntimeError or TimeoutError, with the end of the log, if the server does not start.
    """

    def __init__(
        self, host: Host, base: Path, *extra_nodes: Path, arguments: tuple[str, ...] = (), processor: str = "--cpu"
    ) -> None:
        self.host, self.base = host, base
        self.arguments = ([processor] if processor else []) + list(arguments)
        self.log = base / "server.log"
        self.port = _free_port()
        for folder in ("models/artv", "models/checkpoints", "custom_nodes", "input", "output"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        for name, pack in {LINKED_AS: PACK, **{pack.name: pack for pack in extra_nodes}}.items():
            _link(base / "custom_nodes" / name, pack)

    def __enter__(self) -> "Server":
        command = [self.host.python, "main.py", "--listen", ADDRESS, "--port", str(self.port)]
        command += ["--disable-api-nodes", "--preview-method", "auto"]
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
        """The JSON at `path`."""
        with urllib.request.urlopen(f"http://{ADDRESS}:{self.port}{path}", timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, data: Mapping[str, Any]) -> Any:
        """The JSON of the reply, if there is any. Raises HTTPError if the server refuses."""
        body = json.dumps(data).encode()
        request = urllib.request.Request(
            f"http://{ADDRESS}:{self.port}{path}", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def run(
        self,
        graph: Graph,
        on_progress: Callable[[Result], None] | None = None,
        watch: bool = False,
        client: str | None = None,
        **extra: Any,
    ) -> Result:
        """Queue an API-format prompt and listen until it is over. `on_progress` is called on progress and can interrupt
        the run. With `watch` the sampler reports its frames as it does to ComfyUI's page, instead of sending the host's
        previews. `client` is the id of the client that queues; without it, a new one."""
        from websockets.sync.client import connect

        client = client or secrets.token_hex(8)
        with connect(f"ws://{ADDRESS}:{self.port}/ws?clientId={client}", max_size=None) as socket:
            if watch:
                self.post("/artv/live", {"client_id": client})
            try:
                queued = self.post("/prompt", {"prompt": graph, "client_id": client, "extra_data": extra})
            except urllib.error.HTTPError as refusal:
                return Result("refused", error=json.load(refusal))
            return self._listen(socket, queued["prompt_id"], on_progress)

    def interrupt(self) -> None:
        """Stop the prompt that is running."""
        self.post("/interrupt", {})

    def output_file(self, shown: Mapping[str, Any]) -> Path:
        """The path of a file that a node's output names."""
        return self.base / shown["type"] / shown["subfolder"] / shown["filename"]

    def log_text(self) -> str:
        """The server's log so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def _listen(self, socket: "ClientConnection", prompt: str, on_progress: Callable[[Result], None] | None) -> Result:
        result = Result()
        while True:
            payload = self._receive(socket)
            if isinstance(payload, bytes):
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

    def _receive(self, socket: "ClientConnection") -> str | bytes:
        from websockets.exceptions import ConnectionClosed

        try:
            return socket.recv(PROMPT_SECONDS)
        except ConnectionClosed:
            raise ConnectionError(f"the server went away:\n{self.log_text()[-3000:]}") from None

    def _wait_until_up(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended at once:\n{self.log_text()[-3000:]}")
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(0.1)
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


def _link(link: Path, folder: Path) -> None:
    """Make a link, or a copy if the system does not allow links (usually Windows). An existing one is kept."""
    if link.exists():
        return
    try:
        link.symlink_to(folder, target_is_directory=True)
    except OSError:
        shutil.copytree(
            folder, link, ignore=shutil.ignore_patterns(".*", "runs", "build", "dist", "node_modules", "__pycache__")
        )


def _note(result: Result, kind: str, data: dict[str, Any]) -> None:
    if kind == "executing" and data.get("node"):
        result.executed.append(data["node"])
    elif kind == "executed" and data.get("output"):
        result.outputs[data["node"]] = data["output"]
    elif kind == "artv.live":
        result.live.append(data)
    elif kind == "progress":
        result.progress.append((data.get("node") or "", data["value"], data["max"]))
    elif kind in ("execution_success", "execution_error", "execution_interrupted"):
        result.status = kind.removeprefix("execution_")
        result.error = data if kind == "execution_error" else {}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return probe.getsockname()[1]
