"""The evidence on the mask network: what is trained, and that the document says what was measured."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.files.finite import NotFiniteError
from artv_core.method.options import GenerateOptions
from artv_core.synthetic.detailed import copied, detailed_clips, never_near

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import ablations  # noqa: E402
from ablations import Budget  # noqa: E402
from tables import marker_of  # noqa: E402

pytestmark = pytest.mark.usefixtures("uncounted")

SMALL = Budget(steps=2, batch_size=2, clips=4, frames=4)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs are kept that share their clips."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("name", ablations.NAMES)
def test_runs_go_on_from_the_shipped_checkpoint_with_and_without_its_mask(work: Path, name: str):
    """Two steps change little; the network that is left out is the only difference."""
    model = load_checkpoint(ablations.trained_file(name, 1, SMALL, work))
    assert (model.mask is None) == (name == "no mask network")
    shipped = load_checkpoint(resolve_checkpoint("tiny"), without=("mask",) if model.mask is None else ())
    there = dict(model.named_parameters())
    assert set(there) == set(dict(shipped.named_parameters()))
    assert all((there[key] - weight).abs().max() < 0.05 for key, weight in shipped.named_parameters())


def test_seeds_differ_in_all_but_their_clips(tmp_path: Path):
    one, two = (ablations.run_config("full", seed, SMALL, tmp_path) for seed in (1, 2))
    assert one.latents == two.latents
    assert (one.seed, two.seed) == (1, 2)
    assert one.name != two.name


@pytest.mark.parametrize("start", ["", ablations.EPS])
def test_runs_of_both_forms_differ_in_form_and_share_alone(work: Path, start: str):
    """From nothing or from one checkpoint, with the paper's loss; the part's masks and drift are measured."""
    budget = replace(SMALL, start_from=start)
    configs = [ablations.run_config(name, 0, budget, work) for name in ablations.FORMS]
    kinds = [(config.model.schedule.static_noise, config.diffusion.auxiliary_share) for config in configs]
    assert kinds == [("exact", 0.25), ("exact", 0), ("subtracted", 0.25), ("subtracted", 0)]
    shared = {"prediction": "eps", "weight_cap": 0, "uniform_share": 1, "detail_weight": 0}
    for config in configs:
        assert shared == {"prediction": config.model.schedule.prediction} | {
            name: getattr(config.diffusion, name) for name in ("weight_cap", "uniform_share", "detail_weight")
        }
    if not start:
        assert {config.diffusion.start_from for config in configs} == {""}
        return
    exact, subtracted = (load_checkpoint(configs[index].diffusion.start_from) for index in (0, 2))
    shipped = load_checkpoint(resolve_checkpoint("tiny"))
    weights = [dict(model.named_parameters()) for model in (exact, subtracted, shipped)]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    assert any(not torch.equal(weight, weights[2][name]) for name, weight in weights[0].items() if "mask" in name)
    measured = ablations.held(exact, 2, 17, GenerateOptions(steps=2))["measured"]
    masks = [value for name, value in measured.items() if name.startswith("mask on still cells")]
    assert len(masks) == len(ablations.TIMES)
    assert all(0.1 < value < 0.3 for value in masks), "a new mask network copies little"
    assert measured["background drift at frame 16"] is not None


def test_videos_that_do_not_stay_finite_are_counted_and_masks_are_kept(monkeypatch: pytest.MonkeyPatch):
    """As with a mask network that copies much of a subtracted noise at the noisiest steps."""

    def failing(*_: object) -> None:
        raise NotFiniteError(17)

    monkeypatch.setattr(ablations, "gone_on", failing)
    model = load_checkpoint(resolve_checkpoint("tiny"))
    for measure in (ablations.held, ablations.held_textured):
        measured = measure(model, 2, 32, GenerateOptions())["measured"]
        assert measured[ablations.FINITE] == 0
        assert measured["mask on still cells at t = 39"] > measured["mask on other cells at t = 39"] > 0
        assert len(measured) == 4 * len(ablations.TIMES) + 1


@pytest.mark.parametrize("name", ablations.AGAINST_DRIFT)
def test_what_is_tried_against_drift_has_one_baseline(tmp_path: Path, name: str):
    """The same checkpoint, steps and clips; one thing more in training, or one in sampling."""
    plain = ablations.run_config("full", 0, SMALL, tmp_path)
    if name in ablations.SAMPLED:
        options = GenerateOptions(**ablations.SAMPLED[name])
        assert options != GenerateOptions()
        return
    config = ablations.run_config(name, 0, SMALL, tmp_path)
    changed = {"error_share": config.diffusion.error_share}
    assert config.diffusion == replace(plain.diffusion, **changed)
    assert changed["error_share"] == 0.5 * (name == "error recycling")


def test_bars_of_both_forms():
    said = {f"mask on still cells at t = {t}": value for t, value in ((39, 0.75), (999, 0.25))}
    runs = {f"{name}, seed 0": {"measured": said} for name in ablations.FORMS}
    assert list(ablations.bars("static", runs).values()) == [4, 0.5]
    assert set(ablations.bars("static", runs)) == set(ablations.LIMITS["static"])
    assert list(ablations.bars("static", {}).values()) == [0]


def test_the_mask_is_read_where_the_object_never_comes():
    clips = detailed_clips(4)
    cells = never_near(clips, 64, 64, 64).unflatten(2, (8, 8)).unflatten(4, (8, 8)).amin(dim=(3, 5))
    assert 0 < cells.mean() < 1
    assert copied([0.75 * cells, 0.25 * cells + (1 - cells)], clips, 64) == 0.5
    assert math.isnan(copied([], clips, 64))


def test_tables_show_all_that_was_measured():
    runs = {f"full, seed {seed}": {"measured": {"drift": 1.0 * seed, "there": None}} for seed in (1, 2)}
    runs["no mask network, seed 1"] = {"measured": {"drift": 5.0}}
    lines = ablations.runs_table({"budget": "2 steps", "prompts": 3, "frames": 4, "runs": runs}, "far").splitlines()
    assert lines[0] == "| measure | full (2 seeds) | no mask network (1 seed) |"
    assert "| drift | 1.5 ± 0.5 | 5 |" in lines
    assert all(line.count("|") == 4 for line in lines)


def test_the_document_says_what_was_measured():
    text = ablations.DOCUMENT.read_text(encoding="utf-8")
    tables = ablations.tables(json.loads(ablations.RESULT.read_text())["parts"])
    assert {"settled", "detailed"} < set(tables)
    for name, table in tables.items():
        assert f"{marker_of(name)}{table}\n\n" in text, name
