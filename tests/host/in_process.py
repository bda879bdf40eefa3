"""Run by a host's Python, in its folder, without its server: `in_process.py CHECK PACK BASE CHECKPOINT` prints numbers.

`partial`: samples with all weights loaded, then with few, without and with a patch: the two greatest differences. On a
CPU the host loads everything, whatever it is told. So its memory management is asked directly here to leave most layers
where they are, as it does on a small GPU: they then fetch, cast and patch their weights at every use.

`compiled`: samples as it is, then compiled, without and with a patch: the two greatest differences, how many graphs
there are, and at how many places they break.
"""

import asyncio
import importlib.util
import sys
from pathlib import Path

ROOM = 200_000  # bytes for weights


def main(check: str, pack: str, base: str, checkpoint: str) -> None:
    sys.argv = ["main.py", "--cpu", "--base-directory", base]
    sys.path.insert(0, ".")
    import comfy.options

    comfy.options.enable_args_parsing()
    import torch
    import utils.install_util  # noqa: F401 (before another module of that name comes in)
    from server import PromptServer

    PromptServer(asyncio.new_event_loop())  # it serves nobody, but nodes may ask who listens
    nodes = _load_nodes(pack)
    with torch.inference_mode():
        {"partial": _partial, "compiled": _compiled}[check](nodes, checkpoint)


def _partial(nodes: dict, checkpoint: str) -> None:
    model, clip, *_ = nodes["ARTVLoader"].execute(checkpoint, "none").args
    text = _text(clip)
    for patcher in (model, _patched(model)):
        print(float((_sample(nodes, patcher, text) - _sample_partially(nodes, patcher, text)).abs().max()))


def _compiled(nodes: dict, checkpoint: str) -> None:
    from torch._dynamo.utils import counters

    plain, clip, *_ = nodes["ARTVLoader"].execute(checkpoint, "none").args
    compiled = nodes["ARTVLoader"].execute(checkpoint, "none", compile=True).args[0]
    text = _text(clip)
    for patch in (lambda model: model, _patched):
        both = [_sample(nodes, patch(model), text) for model in (plain, compiled)]
        print(float((both[0] - both[1]).abs().max()))
    print(counters["stats"]["unique_graphs"], sum(counters["graph_break"].values()))


def _text(clip):
    return clip.encode_from_tokens_scheduled(clip.tokenize("a red circle moving right"))


def _patched(model):
    import torch

    torch.manual_seed(0)
    key = "noise.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
    patched = model.clone()
    patched.add_patches({key: ("diff", (torch.randn_like(model.model.state_dict()[key]),))}, 0.5)
    return patched


def _load_nodes(pack: str) -> dict:
    place = Path(pack) / "__init__.py"
    spec = importlib.util.spec_from_file_location("/pack", place, submodule_search_locations=[pack])
    module = sys.modules["/pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    extension = asyncio.run(module.comfy_entrypoint())
    return {node.__name__: node for node in asyncio.run(extension.get_node_list())}


def _sample(nodes: dict, model, text):
    settings = {"frames": 3, "width": 0, "height": 0, "seed": 7, "videos": 1, "steps": 2}
    settings |= dict.fromkeys(("cfg", "cfg_references", "cfg_anchor", "cfg_first_frame"), 1.5)
    settings |= {"sampler_name": "recommended", "scheduler": "uniform", "use_mask": True}
    return nodes["ARTVMaskedDiffusionSampler"].execute(model=model, positive=text, **settings).args[0][0]["samples"]


def _sample_partially(nodes: dict, model, text):
    import comfy.model_management as memory

    memory.unload_all_models()
    load = memory.load_models_gpu
    memory.load_models_gpu = lambda models, **_: [
        patcher.load(patcher.load_device, lowvram_model_memory=ROOM) for patcher in models
    ]
    try:
        samples = _sample(nodes, model, text)
        assert model.model.model_lowvram, "nothing was left out"
    finally:
        memory.load_models_gpu = load
        model.detach()
    return samples


if __name__ == "__main__":
    main(*sys.argv[1:])
