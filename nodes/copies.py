"""Detects several copies of this pack in one ComfyUI, such as a git clone and an unzipped folder, or a link to either.

Two copies do not share modules or what these remember. For each node name the host keeps the node of the copy it loads
last, but for each address the handler of the copy it loads first. So the page would ask one copy about the runs of
another. A copy that finds another copy's nodes in the host therefore adds nothing, and the user is told.
"""

import inspect
import logging
import sys
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

HERE = Path(__file__).parents[1]
NODE = "ARTVLoader"
PARTS = ("artv_core/config.py", "nodes/sampler.py")
"""A folder that contains these files is this pack, whatever its name and version."""


class Copies(NamedTuple):
    """Folders as the host names them; links are not followed."""

    used: Path
    others: list[Path]

    def __str__(self) -> str:
        """One line, for the log."""
        return (
            f"this pack is installed {len(self.others) + 1} times. In use: {self.used}. Not in use: "
            f"{', '.join(map(str, self.others))}. Remove all but one of these folders and restart ComfyUI."
        )


def is_spare() -> bool:
    """Whether the host already has the nodes of another copy. This copy then adds no nodes, scripts or request
    handlers."""
    return _used() not in (None, HERE)


def find_copies() -> Copies | None:
    """All copies that the host has loaded; None if this is the only one."""
    folders = _loaded()
    used = _used() or HERE
    others = [folder for folder in folders if folder != used]
    return Copies(used, others) if others else None


def tell_log() -> None:
    """Write the warning to the log once, when the server starts. The host has loaded all copies by then."""
    from server import PromptServer

    async def tell(_: Any) -> None:
        copies = find_copies()
        # Copies of versions without this module report nothing, so one report by another copy is enough.
        speaks = next((one for one in _loaded() if (one / "nodes" / "copies.py").is_file()), HERE)
        if copies and speaks == HERE:
            logger.warning("ARTV: %s", copies)

    on_startup = PromptServer.instance.app.on_startup
    if not on_startup.frozen:
        on_startup.append(tell)


def answer_copies(_: dict[str, Any]) -> dict[str, Any]:
    """`POST /artv/copies {}` returns `{"used": FOLDER, "others": [FOLDER, ...]}`, or `{}` if there is only one copy.
    Paths are shortened as far as they stay distinct."""
    copies = find_copies()
    if copies is None:
        return {}
    used, *others = short_names([copies.used, *copies.others])
    return {"used": used, "others": others}


def short_names(folders: list[Path]) -> list[str]:
    """The last parts of different paths, at least two and as many as are needed to keep them distinct."""
    length = next(length for length in count(2) if len({one.parts[-length:] for one in folders}) == len(folders))
    return [Path(*folder.parts[-length:]).as_posix() for folder in folders]


def _loaded() -> list[Path]:
    """The folders of all copies, in the order in which the host loaded them."""
    packs = [module for module in list(sys.modules.values()) if "comfy_entrypoint" in getattr(module, "__dict__", {})]
    folders = [Path(file).parent for module in packs if (file := getattr(module, "__file__", None))]
    return [*dict.fromkeys(folder for folder in folders if all((folder / part).is_file() for part in PARTS))]


def _used() -> Path | None:
    """The copy whose nodes the host uses; None if it has none."""
    node = getattr(sys.modules.get("nodes"), "NODE_CLASS_MAPPINGS", {}).get(NODE)
    module = inspect.getmodule(node) if node else None
    return next((one for one in _loaded() if module and Path(str(module.__file__)).is_relative_to(one)), None)
