"""Runs the stages in order. Each stage reads the files that the one before left in the run's folder.

With several processes (torchrun, accelerate launch) all train, and the main one writes.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import Module

from ..checkpoint import PARTS, part_of_weight, resolve_checkpoint, save_checkpoint
from ..checkpoint.info import parts_in
from ..files.tensor_file import write_tensor_file
from ..models.artv import ARTV
from ..models.hollow import hollow
from ..models.taesd import TAESD
from ..speed.device_limits import check_training_precision
from .config import TrainConfig
from .diffusion import DiffusionTraining, MaskedDiffusionLoss, add_new_weights, with_networks
from .distill import DistillTraining, exported_model, load_teacher
from .loop import run_stage
from .processes import PATIENCE
from .resident import fitting_loop
from .samples import Clips
from .start import open_clips, starting_model, synthetic_clips
from .state import saved_steps
from .stopping import OutOfTime, TimeLimit
from .synthetic_clips import encode_clips, provenance, read_clips
from .vae import AutoencoderLoss, DecoderTraining, VAETraining

STAGES = ("vae", "latents", "decoder", "diffusion", "distill", "export")


@dataclass(frozen=True)
class Call:
    """The arguments of a run: whether to resume, which stages to run, and when to stop."""

    resume: bool
    stages: Sequence[str]
    limit: TimeLimit | None


def run(
    config: TrainConfig,
    output: str,
    stages: Sequence[str] = (),
    resume: bool = False,
    limit: TimeLimit | None = None,
) -> None:
    """Run `stages` of `config` (all of them if none are named) in `output/<name>`. Raises ValueError for a stage that
    this run does not have, and if the folder already contains a run and `resume` is false. Raises SystemExit(0) on a
    signal and when the time `limit` is over. If that happens in the stage "diffusion" or "distill" and "export" is
    among the stages, the averaged weights so far are exported."""
    chosen = [stage for stage in STAGES if stage in (stages or config.stages)]
    for stage in stages:
        if stage not in config.stages:
            raise ValueError(f"no stage {stage!r} in this run; its stages are {', '.join(config.stages)}")
    # This connects the processes, before any of them has to wait.
    PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    folder, device = Path(output) / config.name, PartialState().device
    for stage in chosen:
        check_training_precision(getattr(getattr(config, stage, None), "mixed_precision", "no"), device)
        if not resume and saved_steps(folder / stage):
            raise ValueError(
                f"{folder / stage} already contains a run; use --resume to continue it, or --output for another folder"
            )
    if config.threads:
        torch.set_num_threads(config.threads)
    steps = {
        **{"vae": _vae, "latents": _latents, "decoder": _decoder},
        **{"diffusion": _diffusion, "distill": _distill, "export": _export},
    }
    call = Call(resume, chosen, limit)
    try:
        for stage in chosen:
            started = time.monotonic()
            _stop_before(stage, limit)
            if stage not in ("latents", "export") or PartialState().is_main_process:
                steps[stage](config, folder, call)
            PartialState().wait_for_everyone()
            PartialState().print(f"stage {stage}: done in {(time.monotonic() - started) / 60:.1f} minutes")
    except SystemExit:
        _part()
        raise
    _part()


def _stop_before(stage: str, limit: TimeLimit | None) -> None:
    """Stop if the time is over between two stages. With several processes this is left to the next stage, which stops
    all of them after the same step."""
    if limit is not None and limit.left() < 0 and PartialState().num_processes == 1:
        print(f"{stage}: time is up before it began; the same command with --resume continues from here")
        raise SystemExit(0)


def _part() -> None:
    """Leave the other processes. The main one goes first: if a process leaves while another still reads its last
    message, gloo reports an error there."""
    if not PartialState().is_main_process:
        time.sleep(3)
    PartialState().destroy_process_group()


def _vae(config: TrainConfig, folder: Path, call: Call) -> None:
    stage = VAETraining(config)
    trained = run_stage(stage, folder, call.resume, limit=call.limit) if config.vae.steps else stage.module
    assert isinstance(trained, AutoencoderLoss)
    folder.mkdir(parents=True, exist_ok=True)
    _save_part(trained.vae, folder / "vae.safetensors")


def _latents(config: TrainConfig, folder: Path, call: Call) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vae, made_of = _read_vae(config, folder, "vae"), provenance(config, folder / "vae.safetensors")
    limit = call.limit if PartialState().num_processes == 1 else None
    encode_clips(config, vae, made_of, folder / "latents.safetensors", device, limit)


def _decoder(config: TrainConfig, folder: Path, call: Call) -> None:
    if not config.decoder.steps:
        return
    stage = DecoderTraining(config, _read_vae(config, folder, "vae"))
    trained = run_stage(stage, folder, call.resume, limit=call.limit)
    assert isinstance(trained, AutoencoderLoss)
    _save_part(trained.vae, folder / "decoder.safetensors")


def _diffusion(config: TrainConfig, folder: Path, call: Call) -> None:
    model, clips = _beginning(config, folder)
    _train_networks(DiffusionTraining(config, model, clips), config, folder, call)


def _distill(config: TrainConfig, folder: Path, call: Call) -> None:
    config = config.as_student
    model, clips = _beginning(config, folder)
    teacher = load_teacher(config, model)
    _train_networks(DistillTraining(config, model, clips, teacher), config, folder, call)


def _beginning(config: TrainConfig, folder: Path) -> tuple[ARTV, Clips]:
    """The networks before the first step, and the clips to train on."""
    model = starting_model(config)
    if config.data.path:
        return model, open_clips(config, model, folder)
    model.vae = _read_vae(config, folder, "vae")
    return model, _own_clips(config, folder)


def _train_networks(stage: DiffusionTraining, config: TrainConfig, folder: Path, call: Call) -> None:
    loop = fitting_loop(config, stage.clips)
    try:
        trained = run_stage(stage, folder, call.resume, loop=loop, limit=call.limit)
    except OutOfTime as stop:
        if "export" in call.stages and PartialState().is_main_process:
            so_far = f"after step {stop.done} of {config.diffusion.steps}"
            _write_checkpoint(config, folder, _trained_weights(stage.model, stop.trained, config), so_far)
        raise
    if PartialState().is_main_process:
        write_tensor_file(folder / f"{stage.name}.safetensors", _trained_weights(stage.model, trained, config))


def _own_clips(config: TrainConfig, folder: Path) -> Clips:
    made_of = provenance(config, folder / "vae.safetensors")
    return synthetic_clips(config, read_clips(config, made_of, folder / "latents.safetensors"))


def _trained_weights(model: ARTV, trained: Module, config: TrainConfig) -> dict[str, Tensor]:
    """The weights that the stage changed, under the model's names, and the null context, which depends on them."""
    assert isinstance(trained, MaskedDiffusionLoss)
    model = with_networks(model, trained)
    names = {name for name, _ in model.named_parameters() if part_of_weight(name) in config.diffusion.train}
    return {name: tensor for name, tensor in model.state_dict().items() if name in names | {"null_context"}}


def _export(config: TrainConfig, folder: Path, call: Call) -> None:
    student = bool(config.distill.teacher)
    trained = _read_part(folder, "distill" if student else "diffusion")
    _write_checkpoint(config.as_student if student else config, folder, trained)


def _write_checkpoint(config: TrainConfig, folder: Path, trained: dict[str, Tensor], unfinished: str = "") -> None:
    """Write one file: all weights if the UNet was trained, else the trained parts, and those that the base lacks, to be
    used together with the base. For a run that is `unfinished` (a text that says after which step), the file's name and
    metadata say so."""
    stage, path = config.diffusion, folder / f"{config.name}{'-unfinished' * bool(unfinished)}.safetensors"
    whole = "unet" in stage.train
    kept = [] if whole else _kept_parts(config)
    if whole or kept:
        model = starting_model(config)
    else:
        with hollow():
            model = ARTV(config.model)
            add_new_weights(model, stage)
    model.config = exported_model(config)
    _check_complete(trained, model, config, folder)
    model.load_state_dict(model.state_dict() | trained, assign=True)
    if not config.data.path:
        model.vae = _best_vae(config, folder)
    save_checkpoint(
        model.eval(),
        path,
        parts=None if whole else [part for part in PARTS if part in (*stage.train, *kept)],
        base=None if whole else _source(config).name,
        extra_metadata={"training": _summary(config, unfinished)},
    )
    so_far = f": the averaged weights so far, {unfinished}" if unfinished else ""
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB){so_far}")


def _kept_parts(config: TrainConfig) -> list[str]:
    """The parts that were not trained and are in `start_from`, but not in the file that will be the base."""
    start = config.diffusion.start_from
    held = set(parts_in(resolve_checkpoint(start))) if start else set()
    others = {"branches", "mask"} - {*config.diffusion.train}
    return sorted((others & held) - {*parts_in(resolve_checkpoint(_source(config)))})


def _source(config: TrainConfig) -> Path:
    """The file with the weights that are not in the new one: its base."""
    start = config.diffusion.start_from
    if config.base and not (start and "unet" in parts_in(resolve_checkpoint(start))):
        return Path(config.base)
    return Path(start)


def _check_complete(trained: dict[str, Tensor], model: ARTV, config: TrainConfig, folder: Path) -> None:
    wanted = {name for name, _ in model.named_parameters() if part_of_weight(name) in config.diffusion.train}
    if set(trained) - {"null_context"} != wanted:
        raise ValueError(
            f"{folder}: the trained weights were made with another configuration; run the stage before export again"
        )


def _summary(config: TrainConfig, unfinished: str = "") -> str:
    """How the weights were made, for readers of the file. Paths are cut to their last part."""
    facts = {"preset": config.preset, "seed": config.seed, "base": Path(config.base).name, **asdict(config.diffusion)}
    facts |= {name: Path(facts[name]).name for name in ("start_from", "teacher") if name in facts}
    world = "synthetic world" if config.world == "plain" else f"synthetic world, {config.world}"
    facts["data"] = Path(config.data.path).name if config.data.path else world
    return json.dumps(facts | ({"unfinished": unfinished} if unfinished else {}))


def _best_vae(config: TrainConfig, folder: Path) -> TAESD:
    """The VAE, with the decoder that was trained further if the stage "decoder" was run."""
    vae = _read_vae(config, folder, "vae")
    if not (folder / "decoder").exists():
        return vae
    better = _read_vae(config, folder, "decoder")
    pairs = zip(vae.taesd_encoder.parameters(), better.taesd_encoder.parameters(), strict=True)
    if not all(torch.equal(before, now) for before, now in pairs):
        raise ValueError(f"{folder / 'decoder.safetensors'} belongs to another encoder; run the stage decoder again")
    return better


def _save_part(module: Module, path: Path) -> None:
    if PartialState().is_main_process:
        write_tensor_file(path, module.state_dict())


def _read_part(folder: Path, name: str) -> dict[str, Tensor]:
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise ValueError(f"{path} is not there; run the stage {name} first")
    return load_file(path)


def _read_vae(config: TrainConfig, folder: Path, name: str) -> TAESD:
    vae = TAESD(latent_channels=config.model.vae.latent_channels)
    vae.load_state_dict(_read_part(folder, name))
    return vae.eval()
