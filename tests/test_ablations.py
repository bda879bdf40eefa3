"""The evidence on the mask network: what is trained, and that the document says what was measured."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.synthetic.detailed import detailed_clips, never_near

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import ablations  # noqa: E402
from ablations import Budget  # noqa: E402
from tables import marker_of  # noqa: E402

pytestmark = pytest.mark.usefixtures("uncounted")

SMALL = Budget(steps=2, batch_size=4, clips=4, frames=4)


@pytest.mark.parametrize("name", ablations.NAMES)
def test_runs_go_on_from_the_shipped_checkpoint_with_and_without_its_mask(tmp_path: Path, name: str):
    """Two steps change little; the network that is left out is the only difference."""
    model = ablations.trained(name, 1, SMALL, tmp_path)
    assert (model.mask is None) == (name == "no mask network")
    shipped = load_checkpoint(resolve_checkpoint("tiny"), without=("mask",) if model.mask is None else ())
    there = dict(model.named_parameters())
    assert set(there) == set(dict(shipped.named_parameters()))
    assert all((there[key] - weight).abs().max() < 0.05 for key, weight in shipped.named_parameters())
    model.config = replace(model.config, sampling=replace(model.config.sampling, steps=1))
    assert ablations.plain(model, 2, 17, 1)["measured"]["background drift at frame 16"] is not None


def test_seeds_differ_in_all_but_their_clips(tmp_path: Path):
    one, two = (ablations.run_config("full", seed, SMALL, tmp_path) for seed in (1, 2))
    assert one.latents == two.latents
    assert (one.seed, two.seed) == (1, 2)
    assert one.name != two.name


def test_the_mask_is_read_where_the_object_never_comes():
    clips = detailed_clips(4)
    cells = never_near(clips, 64, 64, 64).unflatten(2, (8, 8)).unflatten(4, (8, 8)).amin(dim=(3, 5))
    assert 0 < cells.mean() < 1
    assert ablations.copied([0.75 * cells, 0.25 * cells + (1 - cells)], clips, 64) == 0.5
    assert math.isnan(ablations.copied([], clips, 64))


def test_tables_show_all_that_was_measured():
    runs = {f"full, seed {seed}": {"measured": {"drift": 1.0 * seed, "there": None}} for seed in (1, 2)}
    runs["no mask network, seed 1"] = {"measured": {"drift": 5.0}}
    lines = ablations.runs_table({"budget": "2 steps", "prompts": 3, "frames": 4, "runs": runs}).splitlines()
    assert lines[0] == "| measure | full (2 seeds) | no mask network (1 seed) |"
    assert "| drift | 1.5 ± 0.5 | 5 |" in lines
    assert all(line.count("|") == 4 for line in lines)


def test_the_document_says_what_was_measured():
    text = ablations.DOCUMENT.read_text(encoding="utf-8")
    tables = ablations.tables(json.loads(ablations.RESULT.read_text())["parts"])
    assert set(ablations.BUDGETS) < set(tables)
    for name, table in tables.items():
        assert f"{marker_of(name)}{table}\n\n" in text, name
