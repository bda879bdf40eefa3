"""The evidence: what is trained and kept, how it is written down, and that the document says what was measured."""

import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file

from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.method import generate
from artv_core.method.generate import GenerateOptions
from artv_core.run.recording import Recording
from artv_core.synthetic.detailed import detailed_clips, never_near
from artv_core.synthetic.quality import quality_clips
from artv_core.synthetic.shapes import render
from artv_core.training.sheets import rollout
from artv_core.training.start import starting_model

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

pytest.importorskip("diffusers", reason="the one-shot baseline is diffusers' 3D UNet: pip install diffusers")

import ablations  # noqa: E402
from ablation_parts import detailed, mask, runs, seeds, shipped, stalled, variants, written  # noqa: E402
from ablation_parts.measured import figures, from_text  # noqa: E402
from ablation_parts.runs import (  # noqa: E402
    Budget,
    Measure,
    TrainingPlan,
    Variant,
    mean_and_spread,
    planned,
    run_config,
    trained,
    work_through,
)
from documents import COLORS, marker_of, save_lines  # noqa: E402

SMALL = Budget(steps=2, batch_size=4, clips=4, frames=4)


def plan(folder: Path, minutes: float | None = None, budget: Budget = SMALL) -> TrainingPlan:
    return TrainingPlan("variants", ("full", "no mask network"), (1, 2), folder, minutes, budget)


def worked_through(plan: TrainingPlan, kept: dict, one: Measure) -> dict:
    return work_through(plan, asdict(plan.budget), kept, one)


def test_what_is_finished_is_kept_and_the_rest_is_made(tmp_path: Path):
    made: list[tuple[str, int]] = []

    def one(name: str, seed: int) -> dict:
        made.append((name, seed))
        return {"measured": {"drift": seed}}

    first = worked_through(plan(tmp_path), {}, one)
    assert made == [("full", 1), ("no mask network", 1), ("full", 2), ("no mask network", 2)]
    assert worked_through(plan(tmp_path), {}, one) == first  # from the folder
    elsewhere = plan(tmp_path / "fresh")
    assert worked_through(elsewhere, json.loads(json.dumps(first)), one) == first  # from the result file
    assert len(made) == 4
    longer = plan(tmp_path, budget=replace(SMALL, steps=3))
    assert len(worked_through(longer, first, one)) == 4
    assert len(made) == 8, "figures of another budget are not these"


def test_runs_stand_in_the_plans_order_whichever_came_first(tmp_path: Path):
    one = {"conditions": asdict(SMALL)}
    kept = {"no mask network, seed 1": one, "full, seed 2": one, "full, seed 1": one, "no mask network, seed 2": one}
    found = worked_through(plan(tmp_path), kept, lambda name, seed: {})
    assert [key[:4] for key in found] == ["full", "full", "no m", "no m"]
    part = replace(plan(tmp_path), names=("full",))
    assert list(worked_through(part, kept, lambda name, seed: {})) == list(kept)


def test_processor_time_is_counted_over_all_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr("ablation_parts.runs.time.process_time", lambda: now[0])
    file = tmp_path / "run" / "seconds.json"

    def spend(seconds: float, end: BaseException | None = None) -> None:
        with runs.counted_seconds(file):
            now[0] += seconds
            if end is not None:
                raise end

    with pytest.raises(SystemExit):
        spend(20, SystemExit(0))
    now[0] += 100
    spend(3)
    assert json.loads(file.read_text()) == 23


def test_no_run_is_started_that_would_end_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr("ablation_parts.runs.time.monotonic", lambda: now[0])

    def one(name: str, seed: int) -> dict:
        now[0] += 60 * 10
        return {}

    found = worked_through(plan(tmp_path, minutes=25), {}, one)
    assert list(found) == ["full, seed 1", "no mask network, seed 1"]
    assert [run["minutes"] for run in found.values()] == [10, 10]
    assert len(worked_through(plan(tmp_path, minutes=10), {}, one)) == 3


def test_seeds_differ_in_all_but_their_clips(tmp_path: Path):
    one, two = (run_config(Variant(), "full", seed, SMALL) for seed in (1, 2))
    assert one.latents == two.latents
    assert one.latents.seed is not None
    assert {one.seed, two.seed} == {1, 2}
    assert one.name != two.name != run_config(Variant(), "full", 2, replace(SMALL, steps=3)).name


@pytest.mark.parametrize("name", ["full", "no mask network", "no anchor", "noised copy", "one reference"])
def test_each_variant_is_trained_and_sampled_as_it_says(tmp_path_factory: pytest.TempPathFactory, name: str):
    work = tmp_path_factory.getbasetemp() / "ablations"
    variant = variants.VARIANTS[name]
    model, _ = trained(variant, name, 1, plan(work))
    assert (model.mask is None) == (name == "no mask network")
    assert model.config.noise.adapter.num_references == (1 if name == "one reference" else 2)
    found, videos = from_text(model, variant, 2, 17, steps=2)
    assert videos.shape == (2, 17, 3, 64, 64)
    assert found["curves"]["frame"] == [0, 4, 8, 12, 16]
    if name in ("no anchor", "noised copy"):
        otherwise = from_text(model, Variant(), 2, 17, steps=2)[1]
        assert torch.equal(videos[:, 0], otherwise[:, 0])
        assert not torch.equal(videos[:, 2:], otherwise[:, 2:])


@pytest.mark.parametrize("name", ["full", "no mask network"])
def test_what_goes_on_from_the_shipped_checkpoint_is_it_at_first(tmp_path: Path, name: str):
    """After one step at next to no rate, without its mask network or with it."""
    budget = replace(SMALL, steps=1, start_from="tiny")
    still = Variant(overrides=variants.VARIANTS[name].overrides, stage={"ema_decay": 0.0})
    with patch.object(runs, "LATER_RATES", {"muon_learning_rate": 1e-12, "learning_rate": 1e-12}):
        model, _ = trained(still, name, 1, plan(tmp_path, budget=budget))
    shipped_model = load_checkpoint(resolve_checkpoint("tiny"), without=("mask",) if name != "full" else ())
    assert (model.mask is None) == (name == "no mask network")
    there = dict(model.named_parameters())
    for key, weight in shipped_model.named_parameters():
        assert torch.allclose(there[key], weight, atol=1e-5), key
    assert set(there) == set(dict(shipped_model.named_parameters()))


def test_what_a_run_gained_is_measured_on_clips_that_none_learns_from(tmp_path: Path):
    """The same samples for each model; a network that knows less has the larger loss."""
    here = plan(tmp_path, budget=replace(SMALL, start_from="tiny"))
    variant = variants.VARIANTS["no mask network"]
    trained(variant, "no mask network", 1, here)
    config = planned(variant, "no mask network", 1, here)
    clips = stalled.fresh_clips(config, here, 4)
    learnt = load_file(tmp_path / config.name / "latents.safetensors")["latents"]
    assert not torch.isin(clips.source.frames(0, [0]), learnt.float()).all()
    model, worse = (starting_model(config).eval() for _ in range(2))
    first = stalled.fresh_loss(model, config, clips, 4)
    assert stalled.fresh_loss(starting_model(config).eval(), config, clips, 4) == first
    with torch.no_grad():
        worse.noise.diffusion_model.out[2].weight.mul_(0.5)
    assert stalled.fresh_loss(worse, config, clips, 4) > 1.2 * first


def test_a_rollout_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, clips = load_checkpoint(resolve_checkpoint("tiny")), quality_clips(2)
    folder, made = tmp_path / "1 / 2 / 1, seed 0", []
    cut_off = GenerateOptions(num_frames=14, batch_size=2, steps=2)
    rollout(model, [clip.caption for clip in clips], cut_off, recording=Recording(folder))

    def counted(*args: Any, **named: Any) -> Any:
        made.append(args[3])
        return sample_frame(*args, **named)

    sample_frame = generate.sample_frame
    monkeypatch.setattr(generate, "sample_frame", counted)
    found, videos = from_text(model, Variant(), 2, 17, folder=folder, steps=2)
    assert made == [14, 15, 16]
    assert not folder.exists()
    whole, uncut = from_text(model, Variant(), 2, 17, steps=2)
    assert torch.equal(videos, uncut)
    assert found == whole


def test_a_frozen_video_fails_what_the_shipped_model_is_held_to():
    clips = quality_clips(16)
    frames = render(clips, 40, 64, 64)
    true = shipped.bars_of(figures(frames, clips)["measured"], 40)
    still = shipped.bars_of(figures(frames[:, :1].expand_as(frames), clips)["measured"], 40)
    assert all(shipped.holds(true[name], *limit) for name, limit in shipped.LIMITS.items())
    assert [name for name, limit in shipped.LIMITS.items() if not shipped.holds(still[name], *limit)] == [
        shipped.DIRECTION
    ]


def test_the_best_mask_is_the_one_that_is_nearest():
    reference, target = torch.zeros(1, 4, 2, 2), torch.full((1, 4, 2, 2), 1.0)
    true = mask.TrueFrames(reference, reference, target, torch.ones(1, 1, 2, 2, dtype=torch.bool))
    assert mask.best_mask(torch.full_like(target, 1.5), true) == pytest.approx(1 / 3, abs=1e-3)
    assert mask.best_mask(target, true) == 0
    assert mask.best_mask(torch.full_like(target, -1.0), true) == 1


def test_mean_and_spread_of_seeds():
    assert mean_and_spread([1.0, 2.0, 6.0]) == (3.0, 3.0)
    assert written.spread([1.0, None, 2.0]) == "1.5 ± 0.5"
    assert written.spread([0.25]) == "0.25"
    assert written.spread([None]) == ""


def test_tables_show_all_that_was_measured():
    runs = {f"full, seed {seed}": {"measured": {"drift": 1.0 * seed, "there": None}} for seed in (1, 2)}
    runs["no mask network, seed 1"] = {"measured": {"drift": 5.0}}
    part = {"budget": "2 steps", "prompts": 3, "frames": 4, "runs": runs}
    lines = written.runs_table(part).splitlines()
    assert lines[0] == "| measure | full (2 seeds) | no mask network (1 seed) |"
    assert "| drift | 1.5 ± 0.5 | 5 |" in lines
    assert all(line.count("|") == 4 for line in lines)


def test_each_seed_is_held_against_the_spread_of_the_others():
    def part(*drift: float) -> dict:
        runs = {f"full, seed {seed}": {"measured": {"drift": value}} for seed, value in enumerate(drift)}
        return {"runs": runs | {"one reference, seed 1": {"measured": {"drift": 9.0}}}}

    assert seeds.seeds_left_out(part(1.0, 2.0)) == [], "too few"
    assert seeds.seeds_left_out(part(0.0, 2.0, 4.0)) == [3.0, 0.0, 3.0]
    assert seeds.seeds_left_out(part(1.0, 1.0, 2.0)) == [1.0, 1.0, math.inf]
    assert seeds.seeds_left_out(part(1.0, 1.0, 1.0)) == [0.0, 0.0, 0.0]
    table = seeds.another_seed_table({"far": [0.5, 3.0], "long": [math.inf, 1.0]})
    assert "| far | 2 | 50% | 50% | 100% |" in table
    assert "| all | 4 | 50% | 50% | 75% |" in table


def test_two_ways_are_compared_seed_by_seed():
    drift = {"full": (1.0, 2.0, 4.0), "no mask network": (2.0, 4.0, 5.0, 9.0)}
    runs = {
        f"{way}, seed {seed}": {"measured": {"background drift at frame 999": value}}
        for way, values in drift.items()
        for seed, value in enumerate(values, 1)
    }
    claim = ("far", "background drift at frame 999")
    pairs = seeds.common_seeds({"far": {"runs": runs}}, *claim)
    assert pairs == [(1, 2), (2, 4), (4, 5)]
    row = seeds.pairs_table({claim: pairs}).splitlines()[-1]
    assert row == "| far: background drift at frame 999 | 2.33 | 3.67 | +1, +2, +1 | -0.61 to +3.3 |"
    assert seeds.common_seeds({}, *claim) == []
    curved = {"measured": {}, "curves": {"frame": [0, 4], "drift": [1.0, 2.0]}}
    assert seeds.figure(curved, "drift, mean over the frames") == 1.5


def test_another_value_is_expected_where_it_mostly_is():
    """Of many triples of normally distributed values, nine in ten have the next one within."""
    draws = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    bounds = [seeds.expected_of_another(values[:3]) for values in draws]
    within = sum(low <= values[3] <= high for (low, high), values in zip(bounds, draws, strict=True))
    assert within / len(draws) == pytest.approx(seeds.CERTAINTY, abs=0.02)


def test_the_mask_is_read_where_the_object_never_comes():
    clips = detailed_clips(4)
    never = never_near(clips, 64, 64, 64)
    cells = never.unflatten(2, (8, 8)).unflatten(4, (8, 8)).amin(dim=(3, 5))
    assert 0 < cells.mean() < 1
    assert detailed.copied([0.75 * cells, 0.25 * cells + (1 - cells)], clips, 64) == 0.5
    assert detailed.copied([], clips, 64) is None


def test_every_line_is_drawn_and_looks_its_own_way(tmp_path: Path):
    pytest.importorskip("matplotlib")
    names = [f"way {number}" for number in range(len(COLORS) + 4)]
    save_lines(tmp_path / "curves.svg", {"drift": {name: [([0, 1], [0, 1])] for name in names}}, "frame")
    drawn = (tmp_path / "curves.svg").read_text()
    assert all(f"<!-- {name} -->" in drawn for name in names)
    dashed = [line for line in drawn.splitlines() if "stroke-dasharray" in line]
    assert len(dashed) == 2 * 4, "in the picture and in its legend"


def test_each_part_has_a_module_and_its_table():
    parts = set(ablations.BARS)
    assert set(ablations.TRAINED) | set(ablations.SAMPLED) | set(ablations.ONCE) == parts
    assert set(written.TABLES) - {"mask while sampling"} <= parts


def test_every_bar_is_there_and_those_measured_hold():
    bars = json.loads(ablations.RESULT.read_text())["bars"]
    assert {bar["name"] for bar in bars} == {bar for part in ablations.BARS.values() for bar in part}
    assert [bar["name"] for bar in bars if bar["value"] is not None and not bar["holds"]] == []


def test_the_document_says_what_was_measured():
    if not ablations.RESULT.is_file():
        pytest.skip("nothing of the evidence is measured yet")
    text = written.DOCUMENT.read_text(encoding="utf-8")
    result = json.loads(ablations.RESULT.read_text())
    tables = written.tables(result["parts"])
    for name, table in tables.items():
        assert f"{marker_of(name)}{table}\n\n" in text, name
    for line in text.splitlines():
        if line.startswith("<!-- table: "):
            assert line.removeprefix("<!-- table: ").removesuffix(" -->") in tables, f"{line} has no figures"
