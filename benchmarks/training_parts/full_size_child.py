"""`full_size_child.py BASE FOLDER STEPS`: trains `configs/sd21-adapter.toml` and prints what was seen, as JSON."""

import hashlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from artv_core.checkpoint import part_of_weight
from artv_core.models.artv import ARTV
from artv_core.training import loop
from artv_core.training import run as stages
from artv_core.training.config import read_config
from artv_core.training.diffusion import DiffusionTraining
from artv_core.training.loop import Stage, run_stage

SEEN: dict = {}


def digests(module: nn.Module) -> dict[str, str]:
    """Of every tensor's bytes."""
    return {
        name: hashlib.blake2b(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in module.state_dict().items()
        if tensor.ndim
    }


@torch.no_grad()
def plain_unet_equal(model: ARTV) -> bool:
    """Whether the noise network with all its conditions gives the bits of Stable Diffusion's UNet without them."""
    generator = torch.Generator().manual_seed(1)
    unet, network = model.noise.diffusion_model, model.noise
    x, step = torch.randn(1, 4, 32, 32, generator=generator), torch.tensor([431.0])
    context = torch.randn(1, 77, model.config.text.width, generator=generator)
    references, anchor = torch.randn(1, 8, 32, 32, generator=generator), torch.randn(1, 4, 32, 32, generator=generator)
    level = torch.tensor([120])
    plain = unet(x, step, unet.project_tokens(context))
    return torch.equal(plain, network(x, step, network.condition(context, references, anchor, level, level)))


def watched(stage: Stage, folder: Path, resume: bool, **how: Any) -> nn.Module:
    assert isinstance(stage, DiffusionTraining)
    before = digests(stage.model)
    grads = {name for name, parameter in stage.model.named_parameters() if parameter.requires_grad}
    started, after = time.monotonic(), dict[str, str]()
    averaged = loop.Training.averaged_module

    def looked_at(training: loop.Training) -> nn.Module:
        after.update(digests(stage.model))  # before the averages take the weights' place
        return averaged(training)

    loop.Training.averaged_module = looked_at
    trained = run_stage(stage, folder, resume, **how)
    named = {name for name, _ in stage.model.named_parameters() if part_of_weight(name) in stage.config.train}
    changed = {name for name in after if after[name] != before[name]}
    SEEN.update(
        {
            "steps": stage.config.steps,
            "minutes": round((time.monotonic() - started) / 60, 1),
            "tensors": len(after),
            "tensors trained": len(named),
            "numbers trained": sum(p.numel() for p in stage.model.parameters() if p.requires_grad),
            "named but the same": sorted(named - changed),
            "changed but not named": sorted((changed - named) | (grads ^ named)),
        }
    )
    return trained


def main() -> None:
    base, folder, steps = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    changes = [f"base={base}", f"data.path={folder / 'clips'}", "data.held_out=1", f"diffusion.steps={steps}"]
    changes += ["diffusion.batch_size=2", "diffusion.micro_batch=1", "diffusion.workers=0", "diffusion.sheet_rows=1"]
    changes += [
        "diffusion.sheet_columns=2",
        "diffusion.warmup_steps=1",
        "diffusion.sheet_steps=1",
        "diffusion.evaluate_every=0",
        "diffusion.log_every=1",
    ]
    config = read_config("configs/sd21-adapter.toml", changes)
    build = stages.starting_model

    def looked_at(chosen: object) -> ARTV:
        model = build(config)
        SEEN.setdefault("start is the plain UNet", plain_unet_equal(model.eval()))
        return model.train()

    stages.starting_model, stages.run_stage = looked_at, watched
    stages.run(config, str(folder), resume=False)
    exported = folder / config.name / f"{config.name}.safetensors"
    SEEN["exported, MB"] = round(exported.stat().st_size / 1e6)
    SEEN["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps(SEEN))


if __name__ == "__main__":
    main()
