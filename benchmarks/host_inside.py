"""The part `gpu` of `benchmarks/host.py`, run by a host's Python in its folder: `host_inside.py MEMORY PACK BASE RESULT
SETTINGS` writes figures as JSON. MEMORY is how the host keeps weights: `plain`, or `dynamic`, loaded as they are used.
The host's own memory management runs, as its `main.py` sets it up, but no server.
"""

import asyncio
import importlib.util
import json
import logging
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from result_files import run_sections

STARTED = time.monotonic()
FREE = 4_000_000_000
"""Bytes that the section for a full card leaves free."""

FOUR = {"cfg": 7.5, "cfg_references": 1.3, "cfg_anchor": 1.6, "cfg_first_frame": 7.5}
"""Four guidance branches."""


def main(memory: str, pack: str, base: str, result: str, settings: str) -> None:
    global torch
    chosen = SimpleNamespace(**json.loads(settings))
    host = Host(memory, pack, base, chosen.on_card)
    import torch  # only now: the host sets it up

    with torch.inference_mode():
        gpu(host, Path(result), chosen)


class Host:
    """The host's nodes and its memory management, in this process."""

    def __init__(self, memory: str, pack: str, base: str, on_card: bool) -> None:
        self.on_card, self.base, self.memory = on_card, Path(base), memory
        options = [] if self.on_card else ["--cpu"]
        if memory == "plain" and "disable-dynamic-vram" in Path("comfy/cli_args.py").read_text(encoding="utf-8"):
            options.append("--disable-dynamic-vram")
        if self.on_card and "disable-cuda-malloc" in Path("comfy/cli_args.py").read_text(encoding="utf-8"):
            options.append("--disable-cuda-malloc")  # as docs/comfyui.md advises
        sys.argv = ["main.py", "--base-directory", base, *options]
        sys.path.insert(0, ".")
        import comfy.options

        comfy.options.enable_args_parsing()
        if self.on_card:
            import cuda_malloc  # noqa: F401 (chooses torch's allocator, so before torch, as in the host's `main.py`)
        if memory == "dynamic":
            self._load_as_used()
        import utils.install_util  # noqa: F401 (before another module of that name comes in)
        from server import PromptServer

        PromptServer(asyncio.new_event_loop())  # it serves nobody, but nodes may ask who listens
        self.nodes = _nodes_of(pack)

    def _load_as_used(self) -> None:
        """As the `main.py` of 0.33.0. On a CPU its layers are made without weights, as on a card."""
        import comfy_aimdo.control as control

        control.init(simple_vram_headroom=None, nvml_pressure=True)  # before what follows, which binds to it
        import comfy.memory_management
        import comfy.model_management
        import comfy.model_patcher as patchers

        if self.on_card:
            devices = comfy.model_management.get_all_torch_devices()
            if not control.init_devices((device.index, 0) for device in devices):
                raise SystemExit("the host's dynamic VRAM cannot be used here")
            patchers.CoreModelPatcher = patchers.ModelPatcherDynamic
        comfy.memory_management.aimdo_enabled = True

    def sample(self, model: Any, positive: Any, **changed: Any) -> Any:
        settings = {"seed": 7, "videos": 1, "scheduler": "uniform", "use_mask": True} | changed
        sampler = self.nodes["ARTVMaskedDiffusionSampler"]
        return sampler.execute(model=model, positive=positive, **settings).args[0][0]["samples"]


def _nodes_of(pack: str) -> dict[str, Any]:
    place = Path(pack) / "__init__.py"
    spec: Any = importlib.util.spec_from_file_location("/pack", place, submodule_search_locations=[pack])
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules["/pack"] = module
    spec.loader.exec_module(module)
    extension = asyncio.run(module.comfy_entrypoint())
    return {node.__name__: node for node in asyncio.run(extension.get_node_list())}


def core(name: str) -> Any:
    """A module of the core, as the nodes have it."""
    return importlib.import_module(f"/pack.artv_core.{name}")


def gpu(host: Host, result: Path, settings: Any) -> None:
    """The sections, in order of importance; each one's figures are written as they come."""
    card = Card(host, settings)
    sections = [(name, needed, lambda _, section=section: section(card)) for name, needed, section in SECTIONS]
    for figures in run_sections(sections, {"device": card.name}, STARTED + settings.seconds):
        result.write_text(json.dumps(figures, indent=1))


class Card:
    """The card, and what sections share."""

    def __init__(self, host: Host, settings: Any) -> None:
        import comfy.model_management as memory

        self.host, self.quick, self.memory = host, settings.quick, memory
        self.device = memory.get_torch_device()
        self.name = torch.cuda.get_device_name(self.device) if host.on_card else "CPU"
        side, steps, frames = (64, 2, 2) if self.quick else (512, 25, 8)
        self.usual = {"width": side, "height": side, "steps": steps, "frames": frames, **FOUR}
        self.usual["sampler_name"] = "dpmpp_2s_ancestral"
        self.reference = self.model = self.positive = None
        self.said: list[str] = []

    def load(self, **switches: bool) -> Any:
        """Load the large model again, after dropping the one before."""
        self.give_up()
        self.model = self.host.nodes["ARTVLoader"].execute("large.safetensors", "none", **switches).args[0]
        width, length = self.model.model.config.text.width, self.model.model.config.text.context_length
        generator = torch.Generator().manual_seed(1)
        self.positive = [[torch.randn(1, length, width, generator=generator), {}]]
        return self.model

    def give_up(self) -> None:
        self.model = None
        self.memory.unload_all_models()
        self.memory.soft_empty_cache()

    def timed(self, run: Callable[[], Any]) -> tuple[Any, float]:
        """The result of `run()`, and the seconds it took."""
        wait = torch.cuda.synchronize if self.host.on_card else bool
        wait()
        began, made = time.perf_counter(), run()
        wait()
        return made, time.perf_counter() - began


def _write_checkpoint(card: Card) -> dict[str, Any]:
    """Random weights of SD 2.1's size (`tiny`'s where the code is only tried), made on the card."""
    path = card.host.base / "models" / "artv" / "large.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        with torch.inference_mode(False), torch.no_grad(), torch.device(card.device):
            model = core("models.artv").ARTV(core("config").preset("tiny" if card.quick else "sd21"), text=False)
            for parameter in model.parameters():
                if not parameter.any():  # zero at the start of a training; here every part is to have an effect
                    torch.nn.init.normal_(parameter, std=0.01)
        core("checkpoint").save_checkpoint(model, path)
    return {"megabytes": round(path.stat().st_size / 1e6)}


def _sample(card: Card) -> dict[str, Any]:
    """The sampler node, once warm."""
    _, seconds = card.timed(card.load)
    listen(card.said)
    card.host.sample(card.model, card.positive, **card.usual | {"frames": 2, "steps": 2})
    latents, node = card.timed(lambda: card.host.sample(card.model, card.positive, **card.usual))
    card.reference = latents.float().cpu()
    return {
        "patcher": type(card.model).__name__,
        "computed in": str(card.model.model.noise.compute_dtype),
        "seconds to load": seconds,
        "seconds of the node": node,
        "frames": card.usual["frames"],
        "finite": bool(card.reference.isfinite().all()),
        "said about CUDA graphs": card.said,
        "allocator": torch.cuda.get_allocator_backend() if card.host.on_card else "",
    }


def listen(said: list[str]) -> None:
    """Keep what the pack logs about CUDA graphs from now on."""
    listener = logging.Handler()
    listener.emit = lambda record: said.extend(re.findall(".*CUDA graphs.*", record.getMessage()))  # type: ignore[method-assign]
    logging.basicConfig(level=logging.INFO, handlers=[listener, *logging.getLogger().handlers], force=True)


def _core(card: Card) -> dict[str, Any]:
    """The same frames by the core alone, from the same file on the same card."""
    dtype, path = card.model.model.noise.compute_dtype, card.host.base / "models/artv/large.safetensors"
    pipeline = core("run.pipeline").Pipeline.from_checkpoint(path, device=card.device, dtype=dtype)
    track = core("method.text_track")
    text = track.TextTrack([track.TextSegment(0, card.positive[0][0][0])])
    chosen = {name: card.usual[name] for name in ("height", "width")} | {"sampler": card.usual["sampler_name"]}
    chosen |= {"guidance_text": FOUR["cfg"], "first_frame_guidance": FOUR["cfg_first_frame"], "seed": 7}
    chosen |= {"guidance_references": FOUR["cfg_references"], "guidance_anchor": FOUR["cfg_anchor"]}

    def make(frames: int, steps: int) -> Any:
        options = core("method.generate").GenerateOptions(num_frames=frames, steps=steps, **chosen)
        return torch.cat([frame.latent.float().cpu() for frame in pipeline.frames(text, options)])

    make(2, 2)
    latents, seconds = card.timed(lambda: make(card.usual["frames"], card.usual["steps"]))
    vae = card.model.model.config.vae
    return {"seconds": seconds, "difference": _apart((card.reference - vae.shift) * vae.scale, latents)}


def _lora(card: Card) -> dict[str, Any]:
    """A LoRA on a model whose evaluations are not captured: under dynamic VRAM its weights come and go."""
    from safetensors.torch import save_file

    model = card.load(graph=False)
    key = "noise.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
    width = model.model.state_dict()[key].shape[0]
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    generator = torch.Generator().manual_seed(2)
    path = card.host.base / "models" / "loras" / "random.safetensors"
    path.parent.mkdir(exist_ok=True)
    up, down = torch.randn(width, 8, generator=generator), torch.randn(8, width, generator=generator) * 0.05
    save_file({f"{stem}.lora_up.weight": up, f"{stem}.lora_down.weight": down}, path)
    short = card.usual | {"frames": 2, "steps": 2 if card.quick else 10}
    plain = card.host.sample(model, card.positive, **short)
    changed, _, report = card.host.nodes["ARTVLoRA"].execute(model, "random.safetensors", 1.0, 1.0).args
    made, seconds = card.timed(lambda: card.host.sample(changed, card.positive, **short))
    kept = card.host.base / f"lora_{card.host.memory}.pt"  # to be compared with the other kind's
    torch.save(made.float().cpu(), kept)
    return {
        "patcher": type(changed).__name__,
        "report": report.splitlines()[0],
        "seconds of the node": seconds,
        "difference from no LoRA": _apart(plain.float().cpu(), made.float().cpu()),
    }


def _full_card(card: Card) -> dict[str, Any]:
    """The first section's frames again, loaded and made with `FREE` bytes of the card left."""
    ballast = []
    card.give_up()
    if card.host.on_card:
        too_much = torch.cuda.mem_get_info(card.device)[0] - FREE
        while too_much > 0:
            ballast.append(torch.empty(min(too_much, 2**33), dtype=torch.uint8, device=card.device))
            too_much -= 2**33
    try:
        model = card.load()
        latents, seconds = card.timed(lambda: card.host.sample(model, card.positive, **card.usual))
    finally:
        ballast.clear()
        card.memory.soft_empty_cache()
    return {
        "patcher": type(model).__name__,
        "seconds of the node": seconds,
        "difference": _apart(card.reference, latents.float().cpu()),
    }


SECTIONS: list[tuple[str, float, Callable[[Card], dict[str, Any]]]] = [
    ("checkpoint", 0, _write_checkpoint),
    ("sampled", 10, _sample),
    ("core", 10, _core),
    ("LoRA", 10, _lora),
    ("full card", 15, _full_card),
]


def _apart(first: Any, second: Any) -> float:
    """Root of the mean squared difference, as a share of the first one's spread."""
    return float((first - second).square().mean().sqrt() / first.std())


if __name__ == "__main__":
    main(*sys.argv[1:])
