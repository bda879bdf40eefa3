"""Initialising a model from a public Stable Diffusion file."""

from collections.abc import Collection
from pathlib import Path

from ..files.partial_file import one_line
from ..models.artv import ARTV
from ..models.taesd import TAESD
from .checking import check_family, check_numbers, fitted_file, open_file
from .names import expected_tensors, last_block
from .reading import read_slots


def initialise_from_stable_diffusion(
    model: ARTV, path: str | Path, parts: Collection[str] | None = None
) -> tuple[str, ...]:
    """Fill noise UNet, KL VAE and text encoder from a public SD file (LDM keys) of the model's family, 1.x or 2.x.

    `parts` are the parts to fill, of "unet", "vae" and "text"; by default all that the model has. Weights keep the
    model's types and devices. Tensors are read one by one. The weights that ARTV adds do not change. If the text
    encoder is filled, `null_context` becomes the encoding of the empty prompt. Returns the names of the filled parts.

    Raises ValueError if the file does not fit exactly or the model lacks a part; then nothing has been changed. Also
    raises ValueError while filling, if a weight is infinite or not a number.
    """
    chosen = _parts_to_fill(model, parts)
    file = open_file(path)
    if "artv_config" in file.metadata:
        raise ValueError(f"{file.path} is an ARTV checkpoint, not a Stable Diffusion one; load it as a checkpoint")
    check_family(file, model.config, "this model needs {} with LDM keys")
    file, expected = fitted_file(file, chosen, expected_tensors(model), model.config)

    state = model.state_dict()
    filled = set()
    for part in chosen:
        for slot, tensor in read_slots(file, expected[part]):
            check_numbers(file, slot, tensor.to(state[slot.model_key].dtype))
            slot.place_in(state[slot.model_key]).copy_(tensor)
            filled.add(slot.model_key)
    if "text" in chosen:
        for name in last_block(model.config.text, state, "text.model.") - filled:
            state[name].zero_()
    if "text" in chosen:
        model.update_null_context()
    return tuple(chosen)


def _parts_to_fill(model: ARTV, parts: Collection[str] | None) -> list[str]:
    held = ["unet"]
    if model.vae is not None and not isinstance(model.vae, TAESD):
        held.append("vae")
    if model.text is not None:
        held.append("text")
    for part in parts or ():
        if part not in held:
            named = one_line(part, 60)
            raise ValueError(f"cannot fill {named!r} from a public file: this model takes {', '.join(held)}")
    return [part for part in held if parts is None or part in parts]
