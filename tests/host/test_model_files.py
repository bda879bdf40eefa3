"""Files that menus list and nodes find: any case of the endings, links, folders, files that are gone, separators."""

import json
import os
import shutil
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

from artv_core.checkpoint import save_checkpoint
from artv_core.commands.comfyui_server import Server
from tests.models import smallest

from .graphs import node

NAMES = ["lower.safetensors", "UPPER.SAFETENSORS", "Mixed.SafeTensors", "short.sft", "SHORT.SFT", "folder/inner.sft"]
FOLDERS = {
    "artv": ("ARTVLoader", "checkpoint"),
    "checkpoints": ("ARTVLoader", "base"),
    "loras": ("ARTVLoRA", "lora_name"),
}
BROKEN = "broken.safetensors"


@pytest.fixture(scope="module")
def server(server: Server) -> Iterator[Server]:
    """With the same files, of an untrained model, for each menu; afterwards they are gone."""
    base = server.base
    whole = base / "whole"
    save_checkpoint(smallest(), whole)
    for folder in FOLDERS:
        for name in (*NAMES, "other.bin", "named.safetensors/within.sft"):
            place(base, folder, name).hardlink_to(whole)
        place(base, folder, BROKEN).symlink_to(base / "drive" / "gone.safetensors")
    yield server
    for folder in FOLDERS:
        for name in (*NAMES, "other.bin", BROKEN):
            place(base, folder, name).unlink()
        for name in ("folder", "named.safetensors"):
            shutil.rmtree(base / "models" / folder / name, ignore_errors=True)


def place(base: Path, folder: str, name: str) -> Path:
    path = base / "models" / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def menu(server: Server, folder: str) -> list[str]:
    """As the page gets it; hosts differ in where the names stand."""
    kind, name = FOLDERS[folder]
    options, *more = server.get(f"/object_info/{kind}")[kind]["input"]["required"][name]
    return options if isinstance(options, list) else more[0]["options"]


def links_told(server: Server, folder: str) -> str:
    """What is said of the broken link."""
    drive = server.base.resolve() / "drive"
    link = server.base / "models" / folder / BROKEN
    return f"{link} is a broken link: it points to {drive / 'gone.safetensors'}, and there is no such file"


def run(server: Server, checkpoint: str = "lower.safetensors", base: str = "none", lora: str | None = None) -> str:
    """What the user reads where it does not run, else nothing."""
    graph = {"loader": node("ARTVLoader", checkpoint=checkpoint, base=base)}
    if lora is not None:
        graph["lora"] = node("ARTVLoRA", model=["loader", 0], lora_name=lora, strength=1.0, strength_clip=1.0)
    shown = ["loader", 3] if lora is None else ["lora", 2]
    result = server.run(graph | {"shown": node("PreviewAny", source=shown)})
    if result.status != "refused":
        return "" if result.status == "success" else result.message
    (faulty,) = result.error["node_errors"].values()
    return faulty["errors"][0]["details"]


def told(server: Server, **names: str) -> str:
    """What the loader's panel is told."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.post("/artv/checkpoint", names)
    return json.load(refused.value)["error"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_menus_list_both_endings_in_any_case(server: Server, folder: str) -> None:
    listed = menu(server, folder)
    assert {*NAMES, "named.safetensors/within.sft"} <= {*listed}
    assert not {"other.bin", "named.safetensors"} & {*listed}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_listed_is_loaded(server: Server, name: str) -> None:
    assert run(server, checkpoint=name) == ""
    assert run(server, base=name) == ""
    assert run(server, lora=name).startswith(f"nothing in {name} fits this model")  # it was read


@pytest.mark.parametrize("name", ["folder\\inner.sft", "named.safetensors\\within.sft"])
def test_backslashes_of_a_workflow_from_windows_are_understood(server: Server, name: str) -> None:
    assert run(server, checkpoint=name, base=name) == ""
    assert server.post("/artv/checkpoint", {"checkpoint": name, "base": name})["name"] == "tiny"


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_broken_link_is_said_to_be_one_and_where_it_points(server: Server, folder: str) -> None:
    names = {"artv": {"checkpoint": BROKEN}, "checkpoints": {"base": BROKEN}, "loras": {"lora": BROKEN}}[folder]
    assert BROKEN in menu(server, folder)
    assert links_told(server, folder) in run(server, **names)
    if folder != "loras":
        assert told(server, **{"checkpoint": "lower.safetensors", **names}).startswith(links_told(server, folder))


@pytest.mark.parametrize(("folder", "name"), [("artv", "checkpoint"), ("checkpoints", "base")])
def test_a_file_that_went_after_the_menu_was_shown_is_not_named_as_there(
    server: Server, folder: str, name: str
) -> None:
    late = place(server.base, folder, "late.sft")
    late.hardlink_to(server.base / "whole")
    assert "late.sft" in menu(server, folder)
    late.unlink()
    message = run(server, **{name: "late.sft"})
    there = message.partition(f"there is no checkpoint 'late.sft' in models/{folder}; there are: ")[2]
    assert "folder/inner.sft" in there
    assert "late.sft" not in there
    assert BROKEN not in there


def test_a_folder_and_other_endings_are_refused(server: Server) -> None:
    assert "'named.safetensors' in models/artv is a folder, expected" in run(server, "named.safetensors")
    assert "there is no checkpoint 'other.bin' in models/artv" in run(server, "other.bin")
    assert "there is no checkpoint '../checkpoints/lower.safetensors'" in run(
        server, "../checkpoints/lower.safetensors"
    )
    assert "there is no checkpoint 5 in models/artv" in run(server, 5)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_said_to_be_one(server: Server) -> None:
    secret = place(server.base, "artv", "secret.safetensors")
    secret.write_bytes((server.base / "whole").read_bytes())
    secret.chmod(0)
    assert "cannot read 'secret.safetensors' in models/artv: permission denied" in run(server, secret.name)
    secret.unlink()
