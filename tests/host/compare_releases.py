"""Do the workflows of earlier releases still give their frames?

    python -m tests.host.compare_releases [REVISION] [--shorter N]

Runs each workflow in `tests/host/releases` twice in one ComfyUI: with the pack as it was at REVISION, and with the
present one. Compares the latents of all samplers to the bit. `--shorter 8` makes videos of an eighth of their length.
Needs a ComfyUI.
"""

import argparse
from pathlib import Path
from typing import Any

from artv_core.commands.comfyui_server import PACK, Host, find_hosts

from . import releases

BEFORE = "4a03c40"
"""The last revision whose nodes had 0 and -1 for automatic settings."""

Found = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", nargs="?", default=BEFORE)
    parser.add_argument("--shorter", type=int, default=1, metavar="N")
    args = parser.parse_args()
    for host in find_hosts():
        found = compare(host, args.revision, args.shorter)
        print(
            f"ComfyUI {host.version}: {found['same']} of {found['workflows']} give the same frames as {args.revision}"
        )
        for name in found["different"]:
            print(f"  {name} does not")


def compare(host: Host, revision: str = BEFORE, shorter: int = 1) -> Found:
    """How many workflows there are, how many give the same frames with both packs, and which do not."""
    with releases.pack_at(revision) as pack:
        before = digests(host, pack, shorter)
    after = digests(host, PACK, shorter)
    different = [name for name in before if before[name] != after[name]]
    return {
        "revision": revision,
        "videos shorter by": shorter,
        "workflows": len(before),
        "videos": sum(map(len, before.values())),
        "same": len(before) - len(different),
        "different": different,
    }


def digests(host: Host, pack: Path, shorter: int) -> dict[str, dict[str, str]]:
    """Of each workflow, by its name: a digest of the latents of each sampler."""
    found = {}
    with releases.server_with(host, pack) as server:
        for one in releases.shipped():
            if one.api:
                found[one.name] = releases.made(server, releases.runnable(one.api, shorter))
                print(f"  {one.name}: {', '.join(digest[:8] for digest in found[one.name].values())}", flush=True)
    return found


if __name__ == "__main__":
    main()
