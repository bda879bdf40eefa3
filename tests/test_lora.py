"""Low-rank changes of the noise UNet: in a network, in a file, and in training."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from artv_core.checkpoint import (
    describe_checkpoint,
    load_checkpoint,
    part_of_weight,
    read_part,
    save_checkpoint,
)
from artv_core.checkpoint.info import checkpoint_facts
from artv_core.files.tensor_file import open_tensor_file, tensors_as_file
from artv_core.models.artv import ARTV
from artv_core.models.lora import DOWN, UP, add_lora, changed_layers, merge_lora
from artv_core.training.config import TrainConfig, read_config
from artv_core.training.run import _kept_parts, _source, run
from artv_core.training.start import starting_model
from tests.models import smallest, write_public_base

RANK = 3
PARTS = ("lora", "branches", "mask")


def changed_model(seed: int = 1, rank: int = RANK) -> ARTV:
    """`smallest` with changes that have an effect."""
    model = smallest()
    add_lora(model.noise.diffusion_model, rank)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if part_of_weight(name) == "lora":
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def predict(model: ARTV) -> Tensor:
    """What the noise network makes of random input."""
    generator = torch.Generator().manual_seed(0)
    cells = model.config.noise.unet.in_channels

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    level, text = torch.tensor([70, 70]), draw(2, 16, model.config.text.width)
    conditions = model.noise.condition(text, draw(2, 2 * cells, 8, 8), draw(2, cells, 8, 8), level, level)
    with torch.no_grad():
        output = model.noise(draw(2, cells, 8, 8), torch.tensor([500.0, 20.0]), conditions)
    assert isinstance(output, Tensor)
    return output


def refusal(call: Callable[[], object]) -> str:
    """What `call` is refused with: one line."""
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        call()
    return str(caught.value)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    path = tmp_path / "adapter.safetensors"
    save_checkpoint(changed_model(), path, dtype=torch.float32, parts=PARTS, base="base.safetensors")
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The model that the adapter is for."""
    path = tmp_path / "base.safetensors"
    save_checkpoint(smallest(), path, dtype=torch.float32)
    return path


# In a network


def test_at_first_they_add_nothing() -> None:
    model, plain = smallest(), smallest()
    add_lora(model.noise.diffusion_model, RANK)
    assert torch.equal(predict(model), predict(plain))
    down = [parameter for name, parameter in model.named_parameters() if name.endswith(DOWN)]
    assert down
    assert all(bool(parameter.any()) for parameter in down)


def test_every_linear_layer_of_the_transformers_has_one_except_those_for_the_anchor() -> None:
    unet = smallest().noise.diffusion_model
    changed = changed_layers(unet)
    linear = {name for name, layer in unet.named_modules() if isinstance(layer, nn.Linear)}
    others = linear - changed.keys()
    assert all("anchor" in name or "emb" in name for name in others)
    kinds = {".".join(name.split(".")[-2:]) for name in changed}
    wanted = {"proj_in", "proj_out", "to_q", "to_k", "to_v", "to_out.0", "net.2"}
    assert all(any(kind.endswith(one) for kind in kinds) for one in wanted)


def test_merged_they_give_the_same() -> None:
    model, merged = changed_model(), smallest()
    state = dict(model.state_dict())
    merge_lora(state)
    assert not any(key.endswith((DOWN, UP)) for key in state)
    merged.load_state_dict(state)
    assert (predict(model) - predict(smallest())).abs().max() > 0.1
    assert torch.allclose(predict(model), predict(merged), atol=1e-4)


# In a file


def test_loading_adds_them_to_the_bases_weights(adapter: Path, base: Path) -> None:
    loaded = load_checkpoint(adapter, base=base)
    assert torch.allclose(predict(loaded), predict(changed_model()), atol=1e-4)
    assert loaded.text is not None
    plain = load_checkpoint(adapter, base=base, without=("lora",))
    assert torch.equal(predict(plain), predict(smallest()))
    half = load_checkpoint(adapter, base=base, dtype=torch.float16)
    wanted = loaded.noise.state_dict()
    assert all((tensor - wanted[name]).abs().max() < 1e-2 for name, tensor in half.noise.state_dict().items())


def test_loading_adds_them_to_a_public_base_and_to_weights_in_memory(adapter: Path, tmp_path: Path) -> None:
    public, plain = tmp_path / "public.safetensors", tmp_path / "plain.safetensors"
    write_public_base(public, smallest().config)
    save_checkpoint(smallest(), plain, dtype=torch.float32, parts=PARTS[1:], base="public.safetensors")
    state = dict(load_checkpoint(plain, base=public, without=("vae", "text")).state_dict())
    state |= {name: t for name, t in changed_model().state_dict().items() if part_of_weight(name) == "lora"}
    merge_lora(state)
    unet = {key: tensor for key, tensor in load_file(public).items() if key.startswith("model.diffusion_model.")}
    loaded = load_checkpoint(adapter, base=public, without=("vae", "text"))
    given = load_checkpoint(adapter, unet=tensors_as_file("the model", unet), without=("vae", "text"))
    for found in (loaded, given):
        assert all(
            torch.allclose(tensor.float(), state[name], atol=1e-2) for name, tensor in found.state_dict().items()
        )
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())


def test_a_file_of_them_alone_is_small(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    save_checkpoint(changed_model(), path, dtype=torch.float32, parts=["lora"], base="base.safetensors")
    assert path.stat().st_size < base.stat().st_size / 20
    assert torch.allclose(predict(load_checkpoint(path, base=base)), predict(changed_model()), atol=1e-4)
    message = refusal(lambda: load_checkpoint(path))
    assert "has no noise UNet and needs its base checkpoint (base.safetensors)" in message


def test_what_is_told_about_the_file(adapter: Path, base: Path) -> None:
    summary = describe_checkpoint(adapter)
    layers = changed_layers(smallest().noise.diffusion_model).values()
    assert summary.parts == PARTS
    assert summary.parameters["lora"] == RANK * sum(layer.in_features + layer.out_features for layer in layers)
    assert checkpoint_facts(summary)["missing"] == ["unet", "vae", "text"]
    assert checkpoint_facts(summary, base)["missing"] == []
    assert set(read_part(adapter, "lora")) == {key for key in load_file(adapter) if key.endswith((DOWN, UP))}
    assert read_part(base, "lora") == {}


def test_files_that_do_not_fit_are_refused(adapter: Path, base: Path, tmp_path: Path) -> None:
    def changed(change: Callable[[dict[str, Tensor]], object], **metadata: str) -> Path:
        tensors, path = load_file(adapter), tmp_path / "changed.safetensors"
        change(tensors)
        save_file(tensors, path, open_tensor_file(adapter).metadata | metadata)
        return path

    keys = [key for key in load_file(adapter) if key.endswith(UP)]
    for read in (load_checkpoint, lambda path, base: read_part(path, "lora", base=base)):
        missing = changed(lambda tensors: tensors.pop(keys[0]))
        assert f"1 missing keys: {keys[0]}" in refusal(lambda: read(missing, base=base))  # noqa: B023
        wide = changed(lambda tensors: tensors.update({keys[1]: torch.zeros(4, RANK + 1)}))
        assert f"1 wrong shapes: {keys[1]} (got [4, 4]" in refusal(lambda: read(wide, base=base))  # noqa: B023
    lacking = changed(lambda tensors: [tensors.pop(key) for key in list(tensors) if key.endswith((DOWN, UP))])
    assert f"{2 * len(keys)} missing keys" in refusal(lambda: load_checkpoint(lacking, base=base))
    undeclared = changed(lambda _: None, artv_parts="branches,mask")
    assert f"{2 * len(keys)} unexpected keys" in refusal(lambda: load_checkpoint(undeclared, base=base))
    both = changed(lambda _: None, artv_parts="unet,lora,branches,mask")
    assert "artv_parts: got both unet and lora" in refusal(lambda: load_checkpoint(both, base=base))
    endless = changed(lambda tensors: tensors[keys[0]].fill_(torch.inf))
    assert f"{keys[0]} contains values that are infinite" in refusal(lambda: load_checkpoint(endless, base=base))


def test_a_file_has_the_unet_or_changes_of_it(tmp_path: Path) -> None:
    for parts in (None, ("unet", "lora", "branches")):
        message = refusal(lambda: save_checkpoint(changed_model(), tmp_path / "x.safetensors", parts=parts))  # noqa: B023
        assert "cannot save the parts unet and lora in one file" in message
    message = refusal(lambda: save_checkpoint(smallest(), tmp_path / "x.safetensors", parts=PARTS, base="b"))
    assert "cannot save part 'lora': this model has unet, branches, mask" in message


# In training

STUDENT = Path(__file__).resolve().parent.parent / "configs" / "tiny-student.toml"
SIZES = "model_channels=32, head_channels=16, channel_mult=[1], num_res_blocks=1, attention_levels=[0], norm_groups=8"


def student(teacher: Path, train: tuple[str, ...], **changes: object) -> TrainConfig:
    settings = {
        "name": "student", "distill.teacher": teacher, "vae.start_from": teacher, "vae.steps": 0, "latents.clips": 4,
        "latents.frames": 4, "distill.steps": 2, "distill.batch_size": 2, "distill.sheet_rows": 1,
        "distill.sheet_columns": 2, "distill.evaluations": 2, "distill.substeps": 2, "distill.warmup_steps": 0,
        "distill.decay_steps": 0, "distill.train": json.dumps(train), "distill.lora_rank": RANK,
    }  # fmt: skip
    settings |= {name.replace("__", "."): value for name, value in changes.items()}
    size = f"overrides={{noise={{unet={{{SIZES}}}}}, mask={{unet={{{SIZES}}}}}}}"
    return read_config(STUDENT, [size, *(f"{name}={value}" for name, value in settings.items())])


@pytest.mark.parametrize("resident", ["true", "false"])
def test_a_student_of_changes_alone_is_a_small_file(base: Path, tmp_path: Path, resident: str) -> None:
    run(student(base, ("lora",), distill__resident=resident), str(tmp_path))
    made = tmp_path / "student" / "student.safetensors"
    assert describe_checkpoint(made).parts == ("lora",)
    assert describe_checkpoint(made).base == base.name
    loaded, before = load_checkpoint(made, base=base), load_checkpoint(base).state_dict()
    assert loaded.config.sampling.steps == 2
    differing = {name for name, tensor in loaded.state_dict().items() if not torch.equal(tensor, before[name])}
    layers = changed_layers(smallest().noise.diffusion_model)
    assert differing == {f"noise.diffusion_model.{name}.weight" for name in layers}


def test_a_shipped_teacher_is_the_base_of_such_a_file() -> None:
    config = read_config(STUDENT, ['distill.train=["lora"]']).as_student
    assert (_kept_parts(config), _source(config).name) == ([], "tiny")


def test_training_goes_on_with_the_changes_in_the_file(adapter: Path, base: Path) -> None:
    def going_on(train: tuple[str, ...], rank: int = RANK) -> ARTV:
        config = student(base, train, distill__lora_rank=rank, distill__start_from=adapter)
        return starting_model(replace(config.as_student, base=str(base)))

    begins, held = going_on(PARTS).state_dict(), changed_model().state_dict()
    assert begins.keys() == held.keys()
    assert all(torch.equal(tensor, held[name]) for name, tensor in begins.items() if "vae" not in name)
    message = refusal(lambda: going_on(PARTS, rank=5))
    assert f"{adapter} has low-rank changes of rank {RANK}, not 5; set lora_rank = {RANK}" in message
    assert "the new file would lack them; train lora too" in refusal(lambda: going_on(("branches", "mask")))
    merged = dict(deepcopy(held))
    merge_lora(merged)
    whole = going_on(("unet", "branches")).state_dict()
    assert all(torch.equal(whole[name], tensor) for name, tensor in merged.items() if name.startswith("noise."))


@pytest.mark.parametrize(
    ("train", "changes", "message"),
    [
        (("unet", "lora"), {}, "got both unet and lora, accepted is one of them"),
        (("lora",), {"distill__lora_rank": 0}, "lora_rank: got 0, at least 1 is needed"),
    ],
)
def test_wrong_settings_are_named(base: Path, train: tuple[str, ...], changes: dict[str, object], message: str) -> None:
    assert message in refusal(lambda: student(base, train, **changes))
