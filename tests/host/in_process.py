"""Run by a host's Python, in its folder, without its server: `in_process.py PACK BASE`. It imports the host once, for
that takes most of the time, and reads checks from its input, one a line: `{"check", "found", "layers", "options"}`.

Each check is made in a process of its own, forked from this one, and what it found goes to the file `found`, as JSON;
then a line "done CODE" is printed. Checks are the functions below whose names have no underscore. `options` are
changes to the host's command line for this check. Checks of ARTV Adapt Model are in `adapt_checks.py`.

BASE is the host's base folder, the same for all checks: who asks makes it a link to the check's own folder.

`layers` is how the host keeps weights: `plain`; `lazy`, its layers have none until they are loaded (dynamic VRAM); or
`dynamic`, its patchers are those of dynamic VRAM too, which otherwise want a card. On a CPU those load and sample, but
apply no patches to large weights, for that is the work of the host's library for cards.
"""

import asyncio
import importlib
import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path

ROOM = 200_000  # bytes for weights
PROMPT = "a red circle moving right"
FILLED_IN = (
    "%date:yyyy-MM-dd%/x",
    "%date:yy.M.d hh.mm.ss%",
    "%ARTVLoader.checkpoint%",
    "%ARTVLoader.base%",
    "%My sampler.seed%-%width%",
    "%Other.seed% 100%",
    "%My sampler.note%%Y.seed%",
)
PATCHED = "noise.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"


CHECKPOINT = "test.safetensors"


def main(pack: str, base: str) -> None:
    sys.argv = ["main.py", "--cpu", "--base-directory", base]
    sys.path.insert(0, ".")
    import comfy.options

    comfy.options.enable_args_parsing()
    if importlib.util.find_spec("comfy_aimdo"):
        import comfy_aimdo.control

        comfy_aimdo.control.init()  # before what follows, which binds to it; used by none but lazy layers
    import utils.install_util  # noqa: F401 (before another module of that name comes in)
    from server import PromptServer

    PromptServer(asyncio.new_event_loop())  # it serves nobody, but nodes may ask who listens
    nodes = _load_nodes(pack)
    for line in sys.stdin:
        print("done", _forked(json.loads(line), nodes, Path(base)), flush=True)


def _forked(asked: dict, nodes: dict, base: Path) -> int:
    """Makes a check in a process of its own; 0 where it came to its end."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        _make(asked, nodes, base)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _make(asked: dict, nodes: dict, base: Path) -> None:
    import comfy.cli_args
    import torch

    for name, value in asked["options"].items():
        assert hasattr(comfy.cli_args.args, name), f"the host has no option {name}"
        setattr(comfy.cli_args.args, name, value)
    if asked["layers"] != "plain":
        _make_lazy(asked["layers"] == "dynamic")
    with torch.inference_mode():
        found = _check(asked["check"])(nodes, CHECKPOINT, base)
    Path(asked["found"]).write_text(json.dumps(found), encoding="utf-8")


def _check(name: str):
    """The function of this file, or of `adapt_checks.py`."""
    if name in globals():
        return globals()[name]
    sys.path.insert(0, str(Path(__file__).parent))
    sys.modules["in_process"] = sys.modules["__main__"]
    return getattr(importlib.import_module("adapt_checks"), name)


def partial(nodes: dict, checkpoint: str, base: Path) -> list[float]:
    """Samples with all weights loaded, then with few, without and with a patch: the two greatest differences. On a CPU
    the host loads everything, whatever it is told. So its memory management is asked directly here to leave most layers
    where they are, as it does on a small GPU: they then fetch, cast and patch their weights at every use."""
    model, clip, _ = _load(nodes, checkpoint)
    return [
        _difference(_sample(nodes, patcher, clip), _sample_partially(nodes, patcher, clip))
        for patcher in (model, _patched(model))
    ]


def compiled(nodes: dict, checkpoint: str, base: Path, frames: int = 1) -> list[float]:
    """Samples as it is, then compiled, without and with a patch: the two greatest differences, how many graphs there
    are, and at how many places they break. One frame, since compiling kernels for the others takes as long again."""
    from torch._dynamo.utils import counters

    plain, clip, _ = _load(nodes, checkpoint)
    fast, *_ = _load(nodes, checkpoint, compile=True)
    differences = [
        _difference(*(_sample(nodes, patch(model), clip, frames=frames) for model in (plain, fast)))
        for patch in (lambda model: model, _patched)
    ]
    return [*differences, counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())]


def traced(nodes: dict, checkpoint: str, base: Path) -> list[float]:
    """As `compiled` for several frames, but what was traced runs as it is: no kernels are made."""
    from functools import partial

    loading = _module("loading")
    loading.Compiled = partial(loading.Compiled, backend="eager")
    return compiled(nodes, checkpoint, base, frames=3)


def sampled(nodes: dict, checkpoint: str, base: Path) -> dict:
    """Latents, images and those of a run that goes on from the first two frames, into a file, and how it went."""
    import torch

    model, clip, vae = _load(nodes, checkpoint)
    latents = _sample(nodes, model, clip)
    on = _sample(nodes, model, clip, references={"samples": latents[:2]})
    torch.save({"latents": latents, "images": vae.decode(latents)}, base / "sampled.pt")
    weight = model.model.state_dict()[PATCHED]
    return {
        "went on": _difference(latents, on),
        "patcher": type(model).__name__,
        "in the file's memory map": hasattr(weight.untyped_storage(), "_comfy_tensor_file_slice"),
    }


def wired_names(nodes: dict, checkpoint: str, base: Path) -> list:
    """What makes the host load files again if a wire provides their names: the host then gives None for them."""
    return [
        nodes["ARTVLoader"].fingerprint_inputs(checkpoint=None, base=None),
        nodes["ARTVAdaptModel"].fingerprint_inputs(checkpoint=None),
        nodes["ARTVLoadJournal"].fingerprint_inputs(journal=None, first_frame=0, frames="all"),
        nodes["ARTVLoRA"].fingerprint_inputs(lora_name=None, strength=1.0, strength_clip=1.0),
    ]


def no_anchor(nodes: dict, checkpoint: str, base: Path) -> dict:
    """How far frames without an anchor are from those with the anchor's strength 0, and from those with cfg_anchor 0,
    which still act on the text's guidance and the mask."""
    model, clip, _ = _load(nodes, checkpoint)

    def made(policy: str, strength: float, cfg: float = 1.5):
        anchor = nodes["ARTVAnchorFrame"].execute(policy, strength, 10).args[0]
        return _sample(nodes, model, clip, anchor=anchor, cfg_anchor=cfg)

    without = made("none", 1.0)
    return {
        "strength 0": _difference(without, made("first frame", 0.0)),
        "cfg 0": _difference(without, made("first frame", 1.0, 0.0)),
        "cfg 0, strength 2": _difference(made("first frame", 2.0, 0.0), made("first frame", 1.0, 0.0)),
    }


def changed_prompts(nodes: dict, checkpoint: str, base: Path) -> dict:
    """Whether prompts can be said in a run with the schedule's CONDITIONING, and after nodes of the host."""
    from nodes import ConditioningAverage, ConditioningCombine, ConditioningConcat, ConditioningSetTimestepRange

    def can_say(positive) -> bool:
        track = _module("prompt_track").text_track(positive)
        return _module("steer").steered_track(positive, track, lambda: None).can_say

    clip = _load(nodes, checkpoint)[1]
    schedule = nodes["ARTVMultiPromptScheduler"].execute(clip, PROMPT, "", "", 0, 8.0, 0, 16).args[0]
    other = clip.encode_from_tokens_scheduled(clip.tokenize("a blue square"))
    return {
        "as scheduled": can_say(schedule),
        "with a range": can_say(ConditioningSetTimestepRange().set_range(schedule, 0.0, 1.0)[0]),
        "concatenated": can_say(ConditioningConcat().concat(schedule, other)[0]),
        "averaged": can_say(ConditioningAverage().addWeighted(schedule, other, 0.5)[0]),
        "combined": can_say(ConditioningCombine().combine(schedule, other)[0]),
    }


def added_to_prompts(nodes: dict, checkpoint: str, base: Path) -> list[str]:
    """What is said to have no effect: of plain prompts, and after nodes of the host."""
    import torch

    from nodes import ConditioningSetArea, ConditioningSetMask, ConditioningSetTimestepRange

    said = _module("prompt_track").without_effect
    clip = _load(nodes, checkpoint)[1]
    plain = _text(clip)
    schedule = nodes["ARTVMultiPromptScheduler"].execute(clip, PROMPT, "", "", 0, 8.0, 0, 16).args[0]
    changed = ConditioningSetTimestepRange().set_range(plain, 0.2, 1.0)[0]
    changed = ConditioningSetMask().append(changed, torch.ones(1, 8, 8), "default", 1.0)[0]
    return [said(plain, schedule), said(schedule, ConditioningSetArea().append(changed, 64, 64, 0, 0, 1.0)[0])]


def steered_again(nodes: dict, checkpoint: str, base: Path) -> list[int]:
    """How often what the host looks for in its cache changes while a run is steered again and again, and whether it
    changes for another seed too."""
    steer, sampler = _module("steer"), nodes["ARTVMaskedDiffusionSampler"]
    found = [sampler.fingerprint_inputs(seed=7, frames=None)]
    for _ in range(2 * steer.MAX_STEERED):
        steer.note_steered({"seed": 7, "frames": 16})
        found.append(sampler.fingerprint_inputs(seed=7, frames=None))
    return [len(set(found)) - 1, sampler.fingerprint_inputs(seed=8, frames=None)]


def paused_alone(nodes: dict, checkpoint: str, base: Path) -> list[int]:
    """How often a paused run was looked at when it went on: while its page is connected (0: it did not), after the page
    went, and after one that follows it went."""
    from types import SimpleNamespace

    from server import PromptServer

    steer, sockets = _module("steer"), PromptServer.instance.sockets
    steer.MAX_PAUSED_ALONE = 0.95
    run, gone_on = SimpleNamespace(client="page", followers=frozenset()), []
    check = steer._while_paused(run, SimpleNamespace(go_on=lambda: gone_on.append(True)))

    def looks() -> int:
        gone_on.clear()
        for number in range(1, 100):
            check()
            if gone_on:
                return number
        return 0

    sockets["page"] = object()
    connected = looks()
    del sockets["page"]
    alone = looks()
    sockets["other"] = object()
    run.followers = frozenset({"other"})
    followed = looks()
    del sockets["other"]
    return [connected, alone, followed, looks()]


def wired_sizes(nodes: dict, checkpoint: str, base: Path) -> dict:
    """What nodes say to numbers that a wire brings: sizes of a picture, and how many times a video is enlarged."""
    import torch

    model, _, vae = _load(nodes, checkpoint)
    fit, stream, decode = (nodes[name].execute for name in ("ARTVFitImage", "ARTVStreamVideo", "ARTVDecodeVideo"))
    picture, latent = torch.zeros(1, 8, 8, 3), {"samples": torch.zeros(1, 4, 8, 8)}
    asked = {
        "width 100": lambda: fit(model, picture, 100, 64),
        "height 1000000": lambda: fit(model, picture, 64, 1_000_000),
        "stream": lambda: stream(vae, 8.0, "x", "mp4", 64),
        "decode": lambda: decode(latent, vae, 8.0, "x", "mp4", 64),
    }
    return {name: _refused(ask) for name, ask in asked.items()}


def _refused(ask) -> str:
    try:
        ask()
    except ValueError as error:
        return str(error)
    return ""


def replaced_lora(nodes: dict, checkpoint: str, base: Path) -> bool:
    """Whether a LoRA that was replaced under its name is read again."""
    place = base / "models" / "loras" / "one.safetensors"
    place.parent.mkdir(parents=True)
    place.touch()
    settings = {"lora_name": place.name, "strength": 1.0, "strength_clip": 1.0}
    before = nodes["ARTVLoRA"].fingerprint_inputs(**settings)
    os.utime(place, ns=(1, 1))
    return before != nodes["ARTVLoRA"].fingerprint_inputs(**settings)


def requests(nodes: dict, checkpoint: str, base: Path) -> dict:
    """What a route answers: which thread reads the question, and what becomes of long ones, of a told length or
    chunked."""
    import threading

    from aiohttp import web
    from aiohttp.test_utils import TestClient, TestServer

    routes = _module("routes")
    routes.MAX_QUESTION_BYTES, readers, read = 1000, [], json.loads
    routes.json = type("json", (), {"loads": lambda body: [readers.append(threading.current_thread()), read(body)][1]})

    async def chunked(size: int):
        for _ in range(size // 100):
            yield b" " * 100
        yield b"{}"

    async def ask() -> dict:
        app = web.Application()
        app.router.add_post("/artv/one", routes._handler(lambda question: {"answer": question}))
        found = {}
        async with TestClient(TestServer(app)) as client:
            bodies = {
                "short": b'{"a": 1}',
                "long": b" " * 1001,
                "chunked": chunked(500),
                "long, chunked": chunked(5000),
            }
            for name, body in bodies.items():
                answer = await client.post("/artv/one", data=body)
                found[name] = [answer.status, await answer.json()]
        return found

    found = asyncio.run(ask())
    return found | {"beside": len(readers) == 2 and threading.main_thread() not in readers}


def pace(nodes: dict, checkpoint: str, base: Path) -> list[float]:
    """Seconds per frame that the page is told of a run with a second for each frame, after each of three; then it was
    paused for 100 seconds."""
    from types import SimpleNamespace

    live = _module("live")
    live.time = clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    run, found = live.Run(4, 64, 64, 8.0), []
    run.steered = SimpleNamespace(steering=SimpleNamespace(paused_seconds=0.0))
    for frame, pause in enumerate((0.0, 0.0, 100.0)):
        clock.now += 1 + pause
        run.steered.steering.paused_seconds += pause
        run.frame(live.LiveReading(frame, 0.0, 1.0, 0.0), None)
        found.append(run._seconds_per_frame())
    return found


def stored(nodes: dict, checkpoint: str, base: Path) -> str:
    """Latents, into a file, and in what the model's weights are kept."""
    import torch

    model, clip, _ = _load(nodes, checkpoint)
    recommended = dict.fromkeys(("cfg", "cfg_references", "cfg_anchor", "cfg_first_frame"), -1.0)
    torch.save(_sample(nodes, model, clip, **recommended), base / "stored.pt")
    return str(model.model.state_dict()[PATCHED].dtype)


def patched(nodes: dict, checkpoint: str, base: Path) -> dict:
    """A LoRA on the model and on CLIP: whether both were changed, and the result's difference from the unchanged one
    and from one whose weight was changed by hand."""
    import torch

    model, clip, _ = _load(nodes, checkpoint)
    before = _sample(nodes, model, clip)
    made = nodes["ARTVLoRA"].execute(model, "lora.safetensors", 0.5, 1.0, clip).args
    after, text = _sample(nodes, made[0], clip), _text(made[1])
    model, clip, _ = _load(nodes, checkpoint)
    lora = _load_lora()
    weight = model.model.get_parameter(PATCHED)
    weight.data = weight.data + 0.5 * (lora["up"] @ lora["down"]).to(weight.dtype)
    return {
        "report": made[2].splitlines()[0],
        "changed": _difference(before, after),
        "from by hand": _difference(after, _sample(nodes, model, clip)),
        "text": _difference(text[0][0], _text(clip)[0][0]),
        "again unchanged": _difference(before, _sample(nodes, _load(nodes, checkpoint)[0], clip)),
        "finite": bool(torch.isfinite(after).all()),
    }


def lora_files(nodes: dict, checkpoint: str, base: Path) -> dict:
    """What becomes of LoRA files: of patches of each kind, and of each file in models/loras."""
    return {"kinds": _lora_kinds(), "reports": _lora_reports(nodes, checkpoint, base)}


def _lora_kinds() -> dict:
    """For a patch of each kind: whether the node takes it to fit its weight, and whether the host changes that."""
    import comfy.lora
    import torch

    sys.path.insert(0, str(Path(__file__).parent))
    from lora_cases import cases

    fits, found = _module("lora_patches").fits, {}
    for name, (tensors, shape) in cases().items():
        patches = comfy.lora.load_lora({f"w.{key}": value for key, value in tensors.items()}, {"w": "w.weight"}, False)
        patch, weight = patches["w.weight"], torch.randn(shape)
        try:
            made = comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], weight.clone(), "w.weight")
            changed = made.shape == weight.shape and not torch.equal(made, weight)
        except (RuntimeError, AttributeError, IndexError, UnboundLocalError):  # the last ones where parts are missing
            changed = False
        found[name] = [fits(patch, weight.shape), changed]
    return found


def _lora_reports(nodes: dict, checkpoint: str, base: Path) -> dict:
    """What the node reports of each file in models/loras, without and with CLIP, or why it refuses it."""
    model, clip, _ = _load(nodes, checkpoint)
    found = {}
    for path in sorted((base / "models" / "loras").iterdir()):
        for name, wired in (("alone", None), ("with CLIP", clip)):
            try:
                report = nodes["ARTVLoRA"].execute(model, path.name, 1.0, 1.0, wired).args[2]
            except ValueError as error:
                report = str(error)
            found[f"{path.stem}, {name}"] = report
    return found


def written_files(nodes: dict, checkpoint: str, base: Path) -> dict:
    """Files that nodes write: their names, and what is left of those that cannot be written."""
    found = _reserved(base) | {"failed": _failed_video(nodes, base), "lacking": _lacking(nodes)}
    return found | {"left of lacking": [path.name for path in (base / "output" / "lacking").iterdir()]}


def _reserved(base: Path) -> dict:
    """Names of files to write: taken by many threads at once, given back, growing ones, and what a prefix may name."""
    from concurrent.futures import ThreadPoolExecutor

    files = _module("output_files")
    with ThreadPoolExecutor(8) as pool:
        many = list(pool.map(lambda _: files.output_files("race/ARTV", ".mp4", 3), range(8)))
    taken = [file for made in many for file in made]
    folder = base / "output" / "race"
    (base / "elsewhere").mkdir()
    (base / "output" / "linked").symlink_to(base / "elsewhere")
    on_disk = len(list(folder.iterdir()))
    Path(taken[0].path).write_bytes(b"a video")
    files.check_prefix("checked/%width%/ARTV")
    for file in taken:
        file.release()
    left = [path.name for path in folder.iterdir()]
    with files.reserved_files("grow/ARTV", ".mp4", 2) as growing:
        beside = files.output_file("grow/ARTV", ".mp4")
        while_growing = sorted(path.name for path in (base / "output" / "grow").iterdir())
    beside.release()
    prompt = {
        "1": {"class_type": "ARTVLoader", "inputs": {"checkpoint": "a/b:c", "base": ["2", 0]}},
        "2": {"class_type": "X", "inputs": {"seed": 7, "note": ""}, "_meta": {"title": "My sampler"}},
        "3": {"class_type": "Y", "inputs": {"seed": 9}, "_meta": None},
    }
    filled = {text: files.filled_in(text, prompt) for text in FILLED_IN}
    return {
        "different": len({file.path for file in taken}),
        "on disk": on_disk,
        "left": left == [taken[0].name] and not (base / "output" / "checked").exists(),
        "led out": [_led_out(files, prefix) for prefix in ("../x", "/x/y", "linked/x")],
        "growing": [file.name for file in growing],
        "while growing": while_growing,
        "after": [path.name for path in (base / "output" / "grow").iterdir()],
        "filled in": filled,
    }


def _lacking(nodes: dict) -> dict:
    """What Decode to Video raises where a VAE does what the device cannot, and what of any other error."""
    import torch

    class Halves:
        def decode(self, latents):
            return torch.linalg.inv(latents.half())

    class Faulty:
        def decode(self, latents):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    found = {}
    for vae in (Halves(), Faulty()):
        try:
            nodes["ARTVDecodeVideo"].execute({"samples": torch.ones(1, 4, 2, 2)}, vae, 8.0, "lacking/ARTV", "mp4", 1)
        except (ValueError, RuntimeError) as error:
            found[type(vae).__name__] = [type(error).__name__, str(error)]
    return found


def saved(nodes: dict, checkpoint: str, base: Path) -> dict:
    """The host's own nodes save CLIP and VAE: how many tensors of each, and their greatest difference from what the
    checkpoint holds."""
    import comfy.utils
    from comfy_extras.nodes_model_merging import CLIPSave, VAESave

    _, clip, vae = _load(nodes, checkpoint)
    _text(clip)
    CLIPSave().save(clip=clip, filename_prefix="clip")
    VAESave().save(vae=vae, filename_prefix="vae")
    files = {path.stem: comfy.utils.load_torch_file(str(path)) for path in (base / "output").glob("*.safetensors")}
    text, images = (next(tensors for name, tensors in files.items() if kind in name) for kind in ("clip", "vae"))
    whole = comfy.utils.load_torch_file(str(base / "models" / "artv" / checkpoint))
    key = "taesd_decoder.1.weight"
    same = "text_model.encoder.layers.0.mlp.fc1.weight"
    ours = "cond_stage_model.model.transformer.resblocks.0.mlp.c_fc.weight"
    return {
        "clip": _difference(next(tensor for name, tensor in text.items() if name.endswith(same)), whole[ours]),
        "vae": _difference(images[key], whole[key]),
    }


def loads(nodes: dict, checkpoint: str, base: Path) -> dict:
    """How often the host is asked to load the model and the VAE: 16 frames streamed, then decoded to a video; and how
    far those images are from the host's decoding, frame by frame."""
    import comfy.model_management as memory

    model, clip, vae = _load(nodes, checkpoint)
    text, images = _text(clip), []
    asked, usual = [], memory.load_models_gpu

    def count(models, *arguments, **named):
        asked.extend("model" if patcher.model is model.model else "vae" for patcher in models)
        return usual(models, *arguments, **named)

    def counts() -> dict:
        found = {name: asked.count(name) for name in ("model", "vae")}
        asked.clear()
        return found

    memory.load_models_gpu = count
    settings = {"fps": 8.0, "format": "mp4", "upscale": 1}
    stream = nodes["ARTVStreamVideo"].execute(vae, filename_prefix="stream", **settings).args[0]
    with _written(nodes, images):
        latents = _sample(nodes, model, text=text, frames=16, stream=stream)
        found = {"streamed": counts()}
        _sample(nodes, model, text=text, frames=16, seed=8, vae=vae)
        found["previewed"] = counts()
        nodes["ARTVDecodeVideo"].execute({"samples": latents}, vae, filename_prefix="video", **settings)
        found["decoded"] = counts()
    expected = [vae.decode(latent[None])[0].movedim(-1, 0) for latent in latents]
    found["frames"] = [len(images), [_difference(*both) for both in zip(images, [*expected, *expected], strict=True)]]
    return found


def made_again(nodes: dict, checkpoint: str, base: Path) -> dict:
    """What hooks and nodes for several cards ask of a loader: copies of model, CLIP and VAE that share no weights with
    the first, made by the loader, and how far those are from the first. A patcher of dynamic VRAM on a CPU cannot be
    taken to another device."""
    import torch

    model, clip, vae = _load(nodes, checkpoint)
    found = {}
    for name, patcher in {"model": model, "clip": clip.patcher, "vae": vae.patcher}.items():
        if not hasattr(patcher, "cached_patcher_init"):
            return {}
        if patcher.is_dynamic():
            again = patcher.clone(disable_dynamic=True)
        else:
            again = patcher.deepclone_multigpu(torch.device("cpu"))
        both = [dict(one.model.state_dict()) for one in (patcher, again)]
        same = max(_difference(both[0][key], both[1][key]) for key in both[0] | both[1])
        apart = not any(both[0][key].data_ptr() == both[1][key].data_ptr() for key in both[0] if both[0][key].numel())
        found[name] = [type(again).__name__, same, apart]
        if name == "model":
            found["difference"] = _difference(_sample(nodes, model, clip), _sample(nodes, again, clip))
    return found


def frames_again(nodes: dict, checkpoint: str, base: Path) -> dict:
    """Videos of many kinds, and each of their frames made again from the LATENT alone: whether it is the sampler's
    frame to the bit in both scales, how far the mean of its masks is from the copy mask, and the refused frames.
    Also what is said of a patched model."""
    import torch

    made, steps_of_frame = _module("frame_request"), _module("step_masks").steps_of_frame
    bridge, weights = _module("bridge"), _module("weights")
    model, clip, _ = _load(nodes, checkpoint)
    found = {}
    for name, settings in _kinds_of_video(nodes, _text(clip)).items():
        latents, masks = _run(nodes, model, **settings).args[:2]
        for video, (latent, mask) in enumerate(zip(latents, masks, strict=True)):
            samples, refused, exact, apart = latent["samples"], [], [], []
            for frame in range(len(samples)):
                try:
                    request = made.request_for(latent, frame, weights.run_weights(model))
                except ValueError as error:
                    refused.append([frame, str(error)])
                    continue
                steps = steps_of_frame(model, request, samples, frame)
                back = bridge.to_core(samples[frame], model.model.config.vae)
                exact.append(
                    torch.equal(steps.latent, request.record.exact(frame, back))
                    and torch.equal(bridge.to_host(steps.latent, model.model.config.vae), samples[frame])
                )
                apart.append(_difference(steps.masks.mean(dim=0), mask[frame]))
            found[f"{name}, video {video}"] = {"exact": exact, "masks": max(apart), "refused": refused}
    try:
        made.request_for(latents[0], 2, weights.run_weights(_patched(model)))
    except ValueError as error:
        found["patched model"] = str(error)
    return found


def _kinds_of_video(nodes: dict, text: list) -> dict:
    """Inputs of the sampler for each kind."""
    import torch

    torch.manual_seed(0)
    context = text[0][0]
    prompts = [[context, {"artv_range": (0, 2)}], [context.flip(1), {"artv_range": (2, None)}]]
    pictures = {"samples": torch.randn(2, 4, 8, 8)}

    def anchor(policy: str, **more):
        settings = {"policy": policy, "strength": 0.7, "window": 2} | more
        return {"anchor": nodes["ARTVAnchorFrame"].execute(**settings).args[0]}

    levels = {"reference_level": -1, "anchor_level": 3, "reference_levels": "0: 5\n2: 40"}
    redo = nodes["ARTVJournalSettings"].execute("off", False, "2: 99").args[0]
    placed = nodes["ARTVKeyframes"].execute(pictures, "0, 3").args[0]
    skips = {"reuse_every": 2, "reuse_blocks": 1, "guidance_from": 0.3, "guidance_to": 1.0}
    kinds = {
        "plain": {},
        "batch": {"videos": 2},
        "two prompts": {"text": prompts},
        "rolling anchor": anchor("rolling window"),
        "no anchor": anchor("none"),
        "statistics of the anchor": anchor("first frame", adain_strength=0.4),
        "back to the anchor": anchor("first frame", return_to_anchor=0.5),
        "anchor per prompt": {"text": prompts} | anchor("given image per prompt", latent=pictures),
        "noise levels": {"noise_augment": nodes["ARTVNoiseAugment"].execute(**levels).args[0]},
        "redo": {"journal": redo},
        "references": {"references": pictures},
        "keyframes": {"keyframes": placed},
        "shortcuts": {"shortcuts": nodes["ARTVShortcutSettings"].execute(**skips).args[0]},
        "no mask": {"use_mask": False},
    }
    return {name: {"frames": 5, "text": text} | settings for name, settings in kinds.items()}


def ways(nodes: dict, checkpoint: str, base: Path) -> dict:
    """Which way evaluations are made, by what is known of host and weights."""
    from itertools import product

    weights = _module("weights")
    names = ("compiled", "graph", "device", "dynamic", "missing")
    values = ((False, True), (False, True), ("cpu", "cuda"), (False, True), (0, 3 * 2**20))
    chosen = [(case, weights.choose_way(**dict(zip(names, case, strict=True)))) for case in product(*values)]
    return {
        "captured": [case for case, way in chosen if way.name == "captured"],
        "compiled": [case for case, way in chosen if way.name == "compiled"],
        "reasons": sorted({way.reason for _, way in chosen}),
    }


def captured(nodes: dict, checkpoint: str, base: Path) -> dict:
    """A stand-in that replays the same function takes the place of captured graphs: differences from the usual way
    without and with a patch, and what was asked of each stand-in. In the last run the host takes the weights away
    between two frames."""
    import comfy.model_management as memory

    weights = _module("weights")
    model, clip, vae = _load(nodes, checkpoint)
    usual = [_sample(nodes, patcher, clip) for patcher in (model, _patched(model), model)]
    stand_ins = []

    class Captured:
        def __init__(self, device, stops=()) -> None:
            self.device, self.evaluations, self.resets = str(device), 0, 0
            stand_ins.append(self)

        def __call__(self, *arguments):
            assert not self.resets, "a graph was replayed after its weights were moved"
            self.evaluations += 1
            return weights.run_networks(*arguments)

        def reset(self) -> None:
            self.resets += 1

    class TakesAway:
        """A VAE's place: decoding pushes the model out."""

        patcher, taken = None, 0

        def decode(self, latents):
            if self.taken == 1:
                memory.unload_all_models()
            self.taken += 1
            return vae.decode(latents)

    weights.Captured = Captured
    weights.choose_way = lambda **_: weights.Way("captured", "a test says so")
    weights.why_not = lambda device: ""
    made = [_sample(nodes, patcher, clip) for patcher in (model, _patched(model))]
    settings = {"fps": 8.0, "filename_prefix": "taken", "format": "mp4", "upscale": 1}
    stream = nodes["ARTVStreamVideo"].execute(TakesAway(), **settings).args[0]
    made.append(_sample(nodes, model, clip, stream=stream))
    return {
        "differences": [_difference(*both) for both in zip(usual, made, strict=True)],
        "stand-ins": [[one.device, one.evaluations, one.resets] for one in stand_ins],
    }


def weighted(nodes: dict, checkpoint: str, base: Path) -> list[list[tuple[str, float]]]:
    """What the host reads in each of the prompts in a file, as parts with weights; their encodings into another."""
    import torch
    from comfy import sd1_clip

    _, clip, _ = _load(nodes, checkpoint)
    prompts = json.loads((base / "prompts.json").read_text(encoding="utf-8"))
    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(prompt))[0][0] for prompt in prompts]
    torch.save([context.clone() for context in encoded], base / "weighted.pt")
    parts = [sd1_clip.token_weights(sd1_clip.escape_important(prompt), 1.0) for prompt in prompts]
    return [[(sd1_clip.unescape_important(text), weight) for text, weight in found if text] for found in parts]


# Parts


def options_of(nodes: dict, checkpoint: str, base: Path) -> dict:
    """What each sampler of the graphs in `graphs.json` gives to the core: group -> graph -> node -> options."""
    groups = json.loads((base / "graphs.json").read_text(encoding="utf-8"))
    return {
        group: {
            name: {
                key: vars(_options(nodes, graph, part["inputs"]))
                for key, part in graph.items()
                if part["class_type"] == "ARTVMaskedDiffusionSampler"
            }
            for name, graph in graphs.items()
        }
        for group, graphs in groups.items()
    }


def _options(nodes: dict, graph: dict, inputs: dict):
    """The options from a sampler's widgets and from the nodes with settings that are wired to it."""
    sampler = _module("sampler")
    settings = {
        "journal": sampler.JournalSettings(),
        "anchor": sampler.AnchorSettings(),
        "noise_augment": sampler.NoiseSettings(),
        "shortcuts": sampler.Shortcuts(),
    }
    for name in settings:
        if name in inputs:
            source = graph[inputs[name][0]]
            settings[name] = nodes[source["class_type"]].execute(**source["inputs"]).args[0]
    widgets = {name: value for name, value in inputs.items() if not isinstance(value, list)}
    return sampler._options(*settings.values(), **widgets)


def automatic(nodes: dict, checkpoint: str, base: Path) -> dict:
    """What is read from each value of the file `values.json`, for each kind of input: a number, None for "auto", or the
    error."""
    inputs = {**_module("sampler").AUTOMATIC, **_module("conditions").LEVELS, "frames": _module("journal").FRAMES}
    values = json.loads((base / "values.json").read_text(encoding="utf-8"))
    return {name: [_read(inputs[name], value) for value in given] for name, given in values.items()}


def _read(one, value):
    try:
        number = one.read(value)
        one.check(value)
    except ValueError as error:
        return str(error)
    return number if number is None else [type(number).__name__, number]


def _make_lazy(with_patchers: bool) -> None:
    import comfy.memory_management
    import comfy.model_patcher
    import comfy.ops

    comfy.memory_management.aimdo_enabled = True
    assert comfy.ops.manual_cast.Linear(1, 1).weight is None, "layers are not made lazily"
    if with_patchers:

        class OnAnyDevice(comfy.model_patcher.ModelPatcherDynamic):
            def __new__(cls, *_, **__):
                return object.__new__(cls)  # the host's gives a plain one on a CPU

        comfy.model_patcher.CoreModelPatcher = OnAnyDevice


def _led_out(files, prefix: str) -> str:
    try:
        files.output_file(prefix, ".mp4").release()
    except ValueError as error:
        return str(error)
    return ""


def _failed_video(nodes: dict, base: Path) -> list:
    """Why a video whose second frame is not a number is not written, and what lies where it would have been."""
    import torch

    class Broken:
        def decode(self, latents):
            return torch.stack([torch.full((8, 8, 3), float(latent.mean())) for latent in latents])

    samples = {"samples": torch.tensor([0.0, float("nan")])[:, None, None, None].expand(2, 4, 1, 1)}
    try:
        nodes["ARTVDecodeVideo"].execute(samples, Broken(), 8.0, "failed/ARTV", "mp4", 1)
    except ValueError as error:
        message = str(error)
    return [
        next(text for text in ("not a number (NaN)", message) if text in message),
        sorted(path.name for path in (base / "output" / "failed").iterdir()),
    ]


def _load(nodes: dict, checkpoint: str, **settings) -> tuple:
    return nodes["ARTVLoader"].execute(checkpoint, "none", **settings).args[:3]


def _text(clip):
    return clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))


def _load_lora() -> dict:
    """The one that the test wrote: as one product, whatever its own scale."""
    import comfy.utils
    import folder_paths

    tensors = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", "lora.safetensors"))
    stem = next(name for name in tensors if name.startswith("lora_unet")).partition(".")[0]
    return {"up": tensors[f"{stem}.lora_up.weight"], "down": tensors[f"{stem}.lora_down.weight"]}


def _patched(model):
    import torch

    torch.manual_seed(0)
    patched = model.clone()
    patched.add_patches({PATCHED: ("diff", (torch.randn_like(model.model.state_dict()[PATCHED]),))}, 0.5)
    return patched


def _load_nodes(pack: str) -> dict:
    place = Path(pack) / "__init__.py"
    spec = importlib.util.spec_from_file_location("/pack", place, submodule_search_locations=[pack])
    module = sys.modules["/pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    extension = asyncio.run(module.comfy_entrypoint())
    return {node.__name__: node for node in asyncio.run(extension.get_node_list())}


def _module(name: str):
    return sys.modules[f"/pack.nodes.{name}"]


def _sample(nodes: dict, model, clip=None, text=None, **changed):
    return _run(nodes, model, clip, text, **changed).args[0][0]["samples"]


def _run(nodes: dict, model, clip=None, text=None, **changed):
    settings = {"frames": 3, "width": 0, "height": 0, "seed": 7, "videos": 1, "steps": 2}
    settings |= dict.fromkeys(("cfg", "cfg_references", "cfg_anchor", "cfg_first_frame"), 1.5)
    settings |= {"sampler_name": "recommended", "scheduler": "uniform", "use_mask": True} | changed
    positive = _text(clip) if text is None else text
    return nodes["ARTVMaskedDiffusionSampler"].execute(model=model, positive=positive, **settings)


def _sample_partially(nodes: dict, model, clip):
    import comfy.model_management as memory

    text = _text(clip)
    memory.unload_all_models()
    load = memory.load_models_gpu
    memory.load_models_gpu = lambda models, **_: [
        patcher.load(patcher.load_device, lowvram_model_memory=ROOM) for patcher in models
    ]
    try:
        samples = _sample(nodes, model, text=text)
        assert model.model.model_lowvram, "nothing was left out"
    finally:
        memory.load_models_gpu = load
        model.detach()
    return samples


class _written:  # noqa: N801
    """Context manager: the images that videos are given, before they are encoded."""

    def __init__(self, nodes: dict, images: list) -> None:
        self.writers, self.images = [_module("decode").VideoWriter, _module("stream").VideoWriter], images

    def __enter__(self) -> None:
        self.append = self.writers[0].append
        images, append = self.images, self.append

        def noted(writer, image):
            images.append(image.clone())
            append(writer, image)

        self.writers[0].append = noted

    def __exit__(self, *_) -> None:
        self.writers[0].append = self.append


def _difference(first, second) -> float:
    return float((first.float() - second.float()).abs().max())


if __name__ == "__main__":
    main(*sys.argv[1:])
