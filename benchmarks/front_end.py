"""The front end in a real browser: `python benchmarks/front_end.py`.

On each page (the front end of every ComfyUI found at $COMFYUI_PATH or ~/comfy/ComfyUI, and the newest
`comfyui-frontend-package`; nodes in the classic canvas, and as elements where the front end offers that): every shipped
workflow is opened from the template browser, queued and watched; the timeline is edited; a run is found again after the
page was reloaded, and cancelled. Then, on one page: what share of the run's time previews take, and whether the page's
memory grows over 1,000 frames. Writes `benchmarks/results/front_end.json` and screenshots to `build/screenshots`.
`--parts` runs only some parts, `--pages` only pages whose name contains the text; results of the others are kept. Needs
a Chromium, and `pip install ".[test]"`.
"""

import itertools
import json
import statistics
import time
from collections.abc import Callable
from operator import itemgetter
from typing import Any

from result_files import ROOT, about, as_bar, commit, needed_hosts, parser_of, read, verdict, with_earlier

from artv_core.commands.comfyui_server import Host, Server
from tests.host import browser, front_end, timeline_steps, workflow_format
from tests.host.front_end import SAMPLER, FrontEnd

RESULT = ROOT / "benchmarks/results/front_end.json"
TIMING = ROOT / "tests/host/artv_timing"
TINY = "tiny (shipped)"
"""What cost is measured with: the faster the model, the larger the share of everything else."""
NEEDS_OTHER_WEIGHTS = {"sdxl_image_to_video"}
WEIGHTS = {"CheckpointLoaderSimple"}
"""Nodes that a front end may mark, since what they name is not there."""

SEEDS = itertools.count(5000)
"""So that no run is one that the host has in its cache, of which there is nothing to see."""
PREVIEW_RUNS = 8
LONG_FRAMES, LONG_STEPS, SETTLED_FRAME = 1000, 1, 250

Part = dict[str, Any]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--pages", default="", help="only pages whose name holds this")
    args = parser.parse_args()
    if browser.missing():
        raise SystemExit(browser.missing())
    for part in args.parts:
        for name, (host, page) in pages().items():
            if args.pages in name and (part == EVERYWHERE or page == FrontEnd()):
                print(f"{part}: {name}", flush=True)
                write(part, name, PARTS[part](host, page) | {"commit": commit()})
    for bar in read(RESULT)["bars"]:
        print(f"{verdict(bar)} {bar['name']}: {bar['value']} ({bar['limit']})")


def pages() -> dict[str, tuple[Host, FrontEnd]]:
    """All there are, by name."""
    found = {}
    for host in needed_hosts():
        for page in (FrontEnd(own, nodes_2) for own in (True, False) for nodes_2 in (False, True)):
            if front_end.exists(page, host):
                kind, version = "Nodes 2.0" if page.nodes_2 else "classic", front_end.version(page, host)
                found[f"ComfyUI {host.version}, front end {version}, {kind}"] = (host, page)
    return found


# Use


def use(host: Host, shown: FrontEnd) -> Part:
    """What people do; a step that fails ends the benchmark."""
    with front_end.opened_alone(host, shown) as (server, page, faults):
        workflows = {name: queue_template(server, page, name) for name in workflow_format.names()}
        front_end.open_template(page, "multi_prompt_long_video")
        timeline = timeline_steps.edit(page)
        front_end.picture(page, f"{host.version} {shown.name} timeline")
        front_end.open_template(page, "text_to_video")
        found_again = front_end.found_again(page, seed=900)
        found = {"workflows": workflows, "timeline": timeline, "found again after loading the page anew": found_again}
        found["least contrast"] = {theme: least_contrast(page, theme) for theme in ("dark", "light")}
        return found | {"faults": faults.seen}


def queue_template(server: Server, page: Any, name: str) -> dict[str, Any]:
    front_end.open_template(page, name)
    page.wait_for_timeout(1000)
    nodes, zoom = browser.laid_out(page), round(browser.zoom(page), 3)
    faulty = [node["title"] for node in nodes if node["faulty"] and node["type"] not in WEIGHTS]
    if name in NEEDS_OTHER_WEIGHTS:
        return {"opened": not faulty, "queued": False, "zoom": zoom, "overlapping": browser.overlapping(nodes)}
    graph = workflow_format.read_api(name)
    frames = max(part["inputs"]["frames"] for part in graph.values() if part["class_type"] == SAMPLER)
    front_end.show_node(page, SAMPLER)
    front_end.set_widgets(page, SAMPLER, seed=next(SEEDS))
    watched = front_end.watch_run(page, frames)
    print(f"  {name}: first picture at {watched.first_picture:.2f}", flush=True)
    while any(server.get("/queue").values()):
        page.wait_for_timeout(500)
    page.wait_for_timeout(2000)  # in which nodes show what they made
    shown = {"zoom": zoom, "overlapping": browser.overlapping(browser.laid_out(page))}
    return {"opened": not faulty, "queued": True, "first picture at": round(watched.first_picture, 3)} | shown


def least_contrast(page: Any, theme: str) -> float:
    """Of all texts in our panels, against what is behind them (WCAG 2)."""
    page.evaluate("(theme) => app.extensionManager.setting.set('Comfy.ColorPalette', theme)", theme)
    browser.load(page, workflow_format.read_ui("multi_prompt_long_video"), "contrast")
    page.wait_for_timeout(2000)
    return round(min(contrast for _, contrast, _ in page.evaluate(front_end.READABLE, ".artv-panel")), 2)


# Cost


def previews(host: Host, shown: FrontEnd) -> Part:
    """Of 16 frames of tiny, the share of the sampler's time that goes to previews, while a page shows them."""
    with front_end.opened_alone(host, shown, TIMING) as (server, page, _):
        front_end.open_template(page, "text_to_video")
        front_end.use_checkpoint(page, TINY)
        front_end.show_node(page, SAMPLER)
        server.get("/artv_timing")
        runs = [timed_run(server, page, seed) for seed in range(PREVIEW_RUNS + 1)]
        return {"share, median of later runs": statistics.median(run["share"] for run in runs[1:]), "runs": runs}


def timed_run(server: Server, page: Any, seed: int) -> dict[str, float]:
    front_end.set_widgets(page, SAMPLER, seed=1000 + seed)
    seen = front_end.watch_run(page, 16).seen
    while any(server.get("/queue").values()):
        time.sleep(0.2)
    times = server.get("/artv_timing")
    share = (times["previews"] + times.get("sending", 0.0)) / times[SAMPLER]
    pictures = max(pictures for state, _, pictures in seen if state == "running")
    return {"share": round(share, 4), "seconds": round(times[SAMPLER], 3), "pictures": pictures}


def memory(host: Host, shown: FrontEnd) -> Part:
    """Of the page over a long run: the script's heap after collecting garbage."""
    with front_end.opened_alone(host, shown) as (_, page, _):
        front_end.open_template(page, "text_to_video")
        front_end.use_checkpoint(page, TINY)
        front_end.set_widgets(page, SAMPLER, frames=LONG_FRAMES, steps=LONG_STEPS, seed=2000)
        front_end.show_node(page, SAMPLER)
        session = page.context.new_cdp_session(page)
        readings = []
        front_end.start(page)
        for frame in range(SETTLED_FRAME, LONG_FRAMES + 1, SETTLED_FRAME):
            front_end.wait_for(page, f"done >= {frame}", seconds=1800)
            session.send("HeapProfiler.collectGarbage")
            heap = round(session.send("Runtime.getHeapUsage")["usedSize"] / 1e6, 2)
            readings.append({"frame": frame, "heap MB": heap})
        front_end.picture(page, f"{host.version} {shown.name} 1000 frames")
        kept = page.evaluate(f"() => +{front_end.PANELS}[0].dataset.pictures")
        return {"readings": readings, "pictures kept": kept}


PARTS: dict[str, Callable[[Host, FrontEnd], Part]] = {
    "use": use,
    "previews": previews,
    "memory": memory,
}
EVERYWHERE = "use"
"""The part that runs on all pages, not only on the host's own in the classic canvas."""


# Results


def write(part: str, page: str, found: Part) -> None:
    """Into the file, beside what is there."""
    kept = read(RESULT)
    parts = kept.get("parts", {})
    parts.setdefault(part, {})[page] = found
    made = about(RESULT) | {"bars": with_earlier(bars(parts), kept), "parts": parts}
    RESULT.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")


def bars(parts: dict[str, dict[str, Part]]) -> list[dict[str, Any]]:
    """Of all pages; a bar without a value was not measured."""
    used = list(parts.get("use", {}).values())
    shares = [page["share, median of later runs"] for page in parts.get("previews", {}).values()]
    heaps = [[reading["heap MB"] for reading in page["readings"]] for page in parts.get("memory", {}).values()]
    contrasts = [value for page in used for value in page["least contrast"].values()]
    firsts = [one["first picture at"] for page in used for one in page["workflows"].values() if one["queued"]]
    opened = itemgetter("opened")
    held = {
        "all workflows opened from the template browser": lambda page: all(map(opened, page["workflows"].values())),
        "the timeline edited by mouse, keyboard and text": lambda page: all(page["timeline"].values()),
        "a run found again after loading, and cancelled": lambda page: page["found again after loading the page anew"],
    }
    pages = {name: sum(map(holds, used)) if used else None for name, holds in held.items()}
    faults, grown = [len(page["faults"]) for page in used], [round(heap[-1] - heap[0], 2) for heap in heaps]
    found, edited, again = (as_bar(f"use: pages with {name}", pages[name], "at least", len(used)) for name in pages)
    opens = [one for page in used for one in page["workflows"].values() if "zoom" in one]
    over = sum(len(one["overlapping"]) for one in opens) if opens else None
    zoom = min((one["zoom"] for one in opens), default=None)
    first = as_bar("use: latest first picture, share of the frames", max(firsts, default=None), "at most", 0.5)
    cost, heap = "cost: share of the run's time for previews, 16 frames of tiny", "cost: MB of the page's heap grown"
    return [
        *(found, first, edited, again),
        as_bar("use: errors from this pack on any page", sum(faults) if used else None, "at most", 0),
        as_bar("use: least contrast in the panels, light and dark", min(contrasts, default=None), "at least", 4.5),
        as_bar(cost, max(shares, default=None), "at most", 0.04),
        as_bar("templates: least zoom in a window of 1600x1000", zoom, "at least", 0.6),
        as_bar("templates: nodes on one another after a run", over, "at most", 0),
        as_bar(f"{heap} from frame {SETTLED_FRAME} to {LONG_FRAMES}", max(grown, default=None), "at most", 2.0),
    ]


if __name__ == "__main__":
    main()
