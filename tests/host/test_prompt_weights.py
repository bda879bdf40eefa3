"""Weights in prompts: the core's reading and encoding against the host's own."""

import json
from pathlib import Path

import torch

from artv_core.checkpoint import load_checkpoint, save_checkpoint
from artv_core.commands.comfyui_server import Host
from artv_core.models.prompt_weights import read_weights
from artv_core.run.pipeline import Pipeline
from tests.test_prompt_weights import MEANINGS

from .conftest import InProcess, checkpoint_in, random_model


def test_prompts_mean_what_they_mean_in_the_host(in_process: InProcess, host: Host, tmp_path: Path) -> None:
    path = checkpoint_in(tmp_path)
    save_checkpoint(random_model(), path, dtype=torch.float32)
    (tmp_path / "prompts.json").write_text(json.dumps(list(MEANINGS)), encoding="utf-8")
    read = in_process(host, "weighted", tmp_path)
    assert read == [[list(part) for part in read_weights(prompt)] for prompt in MEANINGS]
    core, encoded = Pipeline(load_checkpoint(path)), torch.load(tmp_path / "weighted.pt")
    for prompt, context in zip(MEANINGS, encoded, strict=True):
        expected = core.encode_prompts(prompt).context(0)
        assert (context[0].float() - expected).abs().max() < 0.02 * expected.abs().max(), prompt  # float16 in the host
