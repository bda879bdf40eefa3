"""Checks of ARTV Adapt Model for `in_process.py`, with the files of `sd_files.py`."""

from pathlib import Path
from typing import Any

import in_process as host
import torch

ADAPTER, BASE = "adapter.safetensors", "sd1.safetensors"
SD2 = ("adapter2.safetensors", "sd2.safetensors")
LORAS = (("first.safetensors", 0.8, 0.6), ("second.safetensors", -0.5, 1.0))


def adapt_plain(nodes: dict, checkpoint: str, base: Path, files: tuple[str, str] = (ADAPTER, BASE)) -> dict:
    """The graph's model and the loader's, from the same files, without patches: the digests, differences of text,
    latents and images, and how many bytes are shared before and after a run."""
    model, clip, vae = _native(files[1])
    adapted = nodes["ARTVAdaptModel"].execute(model, files[0]).args[0]
    loaded, its_clip, its_vae = nodes["ARTVLoader"].execute(*files).args[:3]
    shared = _shared(model, adapted)
    text = host._text(clip)
    made, expected = (_sample(nodes, patcher, text) for patcher in (adapted, loaded))
    on = _sample(nodes, adapted, text, frames=3, references={"samples": vae.encode(vae.decode(made))})
    return {
        "digests": _digests(adapted, loaded),
        "text": host._difference(text[0][0], host._text(its_clip)[0][0]),
        "latents": host._difference(made, expected),
        "images": host._difference(vae.decode(made), its_vae.decode(expected)),
        "went on": bool(torch.isfinite(on).all()) and len(on) == len(made) + 1,
        "size": float(made.abs().max()),
        "shared": [shared, _shared(model, adapted)],
        "patcher": type(adapted).__name__,
    }


def adapt_plain_sd2(nodes: dict, checkpoint: str, base: Path) -> dict:
    """As `adapt_plain`, with files of Stable Diffusion 2.x."""
    return adapt_plain(nodes, checkpoint, base, SD2)


def adapt_loras(nodes: dict, checkpoint: str, base: Path) -> dict:
    """As `adapt_plain`, with two LoRAs by the host's nodes, against ARTV Loader and two ARTV LoRA nodes; then with the
    second one by ARTV LoRA on the adapted model."""
    model, clip, _ = _native()
    first = _with_lora(model, clip, *LORAS[0])
    both = _with_lora(*first, *LORAS[1])
    loaded, its_clip = nodes["ARTVLoader"].execute(ADAPTER, BASE).args[:2]
    for name, strength, strength_clip in LORAS:
        loaded, its_clip = nodes["ARTVLoRA"].execute(loaded, name, strength, strength_clip, its_clip).args[:2]
    adapted, about = nodes["ARTVAdaptModel"].execute(both[0], ADAPTER).args
    name, strength, _ = LORAS[1]
    stacked = nodes["ARTVLoRA"].execute(_adapt(nodes, first[0]), name, strength, 0.0).args[0]
    text = host._text(both[1])
    made, expected, on_top = (_sample(nodes, patcher, text) for patcher in (adapted, loaded, stacked))
    return {
        "digests": _digests(adapted, loaded),
        "digests, stacked": _digests(adapted, stacked),
        "text": host._difference(text[0][0], host._text(its_clip)[0][0]),
        "latents": host._difference(made, expected),
        "stacked": host._difference(made, on_top),
        "changed": host._difference(made, _sample(nodes, _adapt(nodes, model), text)),
        "about": about.splitlines()[-1],
        "shared": _shared(model, adapted),
    }


def adapt_own_lora(nodes: dict, checkpoint: str, base: Path) -> dict:
    """A file with low-rank changes, by ARTV Adapt Model and by ARTV Loader: digests, how many layers change, and how
    far latents are from each other, from those without the changes, and from those of a file that has them in its
    UNet."""
    model, clip, _ = _native(SD2[1])
    adapted, about = nodes["ARTVAdaptModel"].execute(model, "adapter2-lora.safetensors").args
    loaded, plain, merged = (
        nodes["ARTVLoader"].execute(name, SD2[1]).args[0]
        for name in ("adapter2-lora.safetensors", SD2[0], "adapter2-merged.safetensors")
    )
    text = host._text(clip)
    made, *others = (_sample(nodes, one, text) for one in (adapted, loaded, plain, merged))
    differences = dict(
        zip(("latents", "changed", "merged"), (host._difference(made, one) for one in others), strict=True)
    )
    return differences | {
        "digests": _digests(adapted, loaded),
        "about": about.splitlines()[-1],
        "layers": len(loaded.patches),
        "dynamic": host._module("weights").is_dynamic(loaded),
    }


def adapt_between_runs(nodes: dict, checkpoint: str, base: Path) -> dict:
    """The host's own sampler runs with a LoRA, so that weights are patched in place; then the model is adapted and
    sampled; then the host's sampler runs again. The same is done with a fresh model for comparison."""
    model, clip, _ = _native()
    patched = _with_lora(model, clip, *LORAS[0])[0]
    text = host._text(clip)
    before = _native_sample(patched, text)
    in_place = bool(patched.backup)
    adapted = [_adapt(nodes, one) for one in (patched, model)]
    made = [_sample(nodes, one, text) for one in adapted]
    after = _native_sample(patched, text)
    plain = _native_sample(model, text)
    patched.detach()
    patched.weight_inplace_update = True  # as nodes of other packs may set it
    _native_sample(patched, text)
    made.append(_sample(nodes, _adapt(nodes, patched), text))
    fresh = _native()[0]
    again = [_adapt(nodes, one) for one in (_with_lora(fresh, clip, *LORAS[0])[0], fresh)]
    with_lora, without = (_sample(nodes, one, text) for one in again)
    expected = [with_lora, without, with_lora]
    return {
        "in place": in_place,
        "adapted": [host._difference(*both) for both in zip(made, expected, strict=True)],
        "changed": host._difference(*made[:2]),
        "the host's": host._difference(before, after),
        "the host's without LoRA": host._difference(plain, _native_sample(fresh, text)),
        "the LoRA has an effect": host._difference(before, plain),
    }


def adapt_on_a_card(nodes: dict, checkpoint: str, base: Path) -> dict:
    """A stand-in for a card: the device "meta", which keeps no numbers. The model is loaded to it and taken off again,
    without and with a LoRA: where its weights were, which are shared then, and how far they are from those of another
    adapted model."""
    model, clip, _ = _native()
    found = {}
    for name, graph in {"plain": model, "with a LoRA": _with_lora(model, clip, *LORAS[0])[0]}.items():
        adapted = _adapt(nodes, graph)
        adapted.load(torch.device("meta"), full_load=True)
        devices = {tensor.device.type for tensor in adapted.model.state_dict().values()}
        _give_own_weights(nodes, adapted, graph)
        adapted.unpatch_model(torch.device("cpu"))
        fresh, state = _adapt(nodes, graph).model.state_dict(), adapted.model.state_dict()
        difference = max(host._difference(state[key], fresh[key]) for key in fresh)
        found[name] = [sorted(devices), _shared(model, adapted), difference]
    return found


def adapt_errors(nodes: dict, checkpoint: str, base: Path) -> dict:
    """What is said about each model that cannot be adapted, and about each that can, with something left out."""
    import comfy.sd

    model, clip, _ = _native()
    unets = {
        name: comfy.sd.load_diffusion_model(str(base / "models" / "diffusion_models" / f"{name}.safetensors"))
        for name in ("inpainting", "sd2", "sdxl", "wide")
    }
    bypass = model.clone()
    bypass.set_injections("bypass_lora", [])
    v = _sampling(model, "v_prediction")
    cases = {name: (unet, ADAPTER) for name, unet in unets.items()} | {
        "none": (None, ADAPTER),
        "clip": (clip, ADAPTER),
        "eps for v": (model, "v.safetensors"),
        "v for eps": (v, ADAPTER),
        "v for v": (v, "v.safetensors"),
        "x0": (_sampling(model, "x0"), ADAPTER),
        "lcm": (_sampling(model, "lcm"), ADAPTER),
        "whole": (model, "whole.safetensors"),
        "extras": (_with_extras(model), ADAPTER),
        "bypass": (bypass, ADAPTER),
        "shipped": (model, "tiny (shipped)"),
    }
    return {name: _said(nodes, *case) for name, case in cases.items()}


def adapt_again(nodes: dict, checkpoint: str, base: Path) -> dict:
    """What hooks and nodes for several cards ask for: a second copy, made by the loaders, with the same patches."""
    model, clip, _ = _native()
    graph = _with_lora(model, clip, *LORAS[0])[0]
    adapted = _adapt(nodes, graph)
    if not hasattr(adapted, "cached_patcher_init"):
        return {}
    dynamic = adapted.is_dynamic()
    again = adapted.clone(disable_dynamic=True) if dynamic else adapted.deepclone_multigpu(torch.device("cpu"))
    text = host._text(clip)
    ours, second = (dict(one.model.state_dict()) for one in (adapted, again))
    found = {
        "same": max(host._difference(ours[key], second[key]) for key in ours),
        "apart": not any(ours[key].data_ptr() == second[key].data_ptr() for key in ours if ours[key].numel()),
        "kind": type(again).__name__,
    }
    if not dynamic:  # on a CPU, a patcher of dynamic VRAM applies no LoRA to large weights
        found["difference"] = host._difference(*(_sample(nodes, one, text) for one in (adapted, again)))
    return found


def adapt_stored_smaller(nodes: dict, checkpoint: str, base: Path) -> dict:
    """A model whose weights the host keeps in 8 bits: in which types the adapted one keeps them, and how far its frames
    are from the usual ones."""
    import comfy.sd

    model, clip, _ = _native()
    path = str(base / "models" / "checkpoints" / BASE)
    small = comfy.sd.load_diffusion_model(path, model_options={"dtype": torch.float8_e4m3fn})
    adapted = _adapt(nodes, small)
    text = host._text(clip)
    usual, made = (_sample(nodes, one, text) for one in (_adapt(nodes, model), adapted))
    networks = adapted.model.noise
    return {
        "types": [
            str(next(part.parameters()).dtype) for part in (networks.diffusion_model, networks.reference_adapter)
        ],
        "difference": host._difference(made, usual) / float(usual.abs().max()),
        "shared": _shared(small, adapted),
    }


def adapt_traced(nodes: dict, checkpoint: str, base: Path) -> list[float]:
    """With `compile` on, but no kernels made, as that takes most of the time: how far a frame with another before it is
    from the usual way, with a LoRA, and at how many places its graph breaks."""
    from functools import partial

    from torch._dynamo.utils import counters

    adapting = host._module("adapting")
    adapting.Compiled = partial(adapting.Compiled, backend="eager")
    model, clip, _ = _native()
    graph, text = _with_lora(model, clip, *LORAS[0])[0], host._text(clip)
    given = {"references": {"samples": torch.randn(1, 4, 4, 4)}}
    usual, made = (_sample(nodes, _adapt(nodes, graph, compile=on), text, **given) for on in (False, True))
    return [host._difference(made, usual) / float(usual.abs().max()), sum(counters["graph_break"].values())]


# Parts


def _sample(nodes: dict, model: Any, text: Any, frames: int = 2, **changed: Any) -> torch.Tensor:
    """Two frames: the second one has references."""
    return host._sample(nodes, model, text=text, frames=frames, **changed)


def _native(name: str = BASE) -> tuple:
    import nodes as native

    return native.CheckpointLoaderSimple().load_checkpoint(name)


def _adapt(nodes: dict, model: Any, **settings: Any) -> Any:
    return nodes["ARTVAdaptModel"].execute(model, ADAPTER, **settings).args[0]


def _with_lora(model: Any, clip: Any, name: str, strength: float, strength_clip: float) -> tuple:
    import nodes as native

    return native.LoraLoader().load_lora(model, clip, name, strength, strength_clip)


def _digests(*patchers: Any) -> int:
    """How many different digests a journal would have for these."""
    return len({host._module("weights").run_weights(patcher) for patcher in patchers})


def _shared(model: Any, adapted: Any) -> list[int]:
    """Bytes of the graph's UNet, how many of them the adapted model uses too, and how many bytes it has of its own for
    the same weights."""
    saved = {key: one.weight for key, one in model.backup.items()}
    theirs = {
        key: saved.get(f"diffusion_model.{key}", value)
        for key, value in model.model.diffusion_model.state_dict().items()
    }
    kept = {key: one.weight for key, one in adapted.backup.items()}
    state = adapted.model.state_dict()
    found = [0, 0, 0]
    for key, tensor in theirs.items():
        name = f"noise.diffusion_model.{key}"
        same = kept.get(name, state[name]).data_ptr() == tensor.data_ptr()
        found[0] += tensor.nbytes
        found[1 if same else 2] += tensor.nbytes
    return found


def _native_sample(model: Any, text: Any) -> torch.Tensor:
    import nodes as native

    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    return native.common_ksampler(model, 3, 2, 1.0, "euler", "normal", text, text, latent)[0]["samples"].clone()


def _give_own_weights(nodes: dict, adapted: Any, graph: Any) -> None:
    """The device "meta" cannot give back what only the adapted model has; the graph's weights must come from it."""
    import comfy.utils

    for key, tensor in _adapt(nodes, graph).model.state_dict().items():
        if key not in adapted.model.graph_weights and key not in adapted.backup:
            (comfy.utils.set_attr_param if key != "null_context" else comfy.utils.set_attr)(adapted.model, key, tensor)


def _said(nodes: dict, model: Any, adapter: str) -> str:
    try:
        return nodes["ARTVAdaptModel"].execute(model, adapter).args[1]
    except ValueError as error:
        return str(error)


def _sampling(model: Any, kind: str) -> Any:
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    return ModelSamplingDiscrete().patch(model, kind, False)[0]


def _with_extras(model: Any) -> Any:
    """With FreeU, and what nodes such as IP-Adapter and others add."""
    from comfy_extras.nodes_freelunch import FreeU

    changed = (FreeU.execute if hasattr(FreeU, "execute") else FreeU().patch)(model, 1.1, 1.2, 0.9, 0.2)
    changed = (changed.args if hasattr(changed, "args") else changed)[0]
    changed.set_model_attn2_patch(lambda *values: values)
    changed.set_model_sampler_post_cfg_function(lambda arguments: arguments["denoised"])
    changed.add_object_patch("diffusion_model.out", model.model.diffusion_model.out)
    changed.add_wrapper_with_key("apply_model", "a test", lambda *values: values)
    return changed
