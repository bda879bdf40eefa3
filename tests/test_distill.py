"""Few-step students: what a step should predict, whose guidance is in it, and that runs go on to the bit."""

import os
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from artv_core.checkpoint import describe_checkpoint, load_checkpoint, part_of_weight, save_checkpoint
from artv_core.config import SamplingConfig, preset
from artv_core.files.tensor_file import open_tensor_file
from artv_core.method.conditioning import Conditioners, FrameInputs, NoisedLatents, frame_denoiser
from artv_core.method.denoiser import GuidanceScales, guidance_branches
from artv_core.method.noise_schedule import NoiseSchedule
from artv_core.method.options import GenerateOptions
from artv_core.method.samplers import dpmpp_2m, evaluated_sigmas
from artv_core.models.artv import ARTV
from artv_core.synthetic.shapes import sample_clip
from artv_core.training.config import DistillStage, TrainConfig, read_config
from artv_core.training.distill import DistillTraining, exported_model, load_teacher, student_sampling
from artv_core.training.loop import Training, run_stage
from artv_core.training.processes import make_accelerator
from artv_core.training.resident import ResidentTraining, unused_parameters
from artv_core.training.run import _source, run
from artv_core.training.start import starting_model, synthetic_clips
from artv_core.training.synthetic_clips import LatentClips
from artv_core.training.teacher import CHAIN, Level, Teacher, goal, guidance_table, student_steps
from tests.device_waits import DeviceWaits, resident_tensors
from tests.models import smallest
from tests.tape import Tapes

pytestmark = pytest.mark.usefixtures("uncounted", "all_used")

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # bits are compared

CPU = torch.device("cpu")
SCHEDULE = NoiseSchedule(preset("tiny").schedule)
GUIDED = SamplingConfig(guidance_references=1.5, guidance_anchor=0.5, guidance_text=2.0, first_frame_guidance=3.0)
STAGE = DistillStage(
    teacher="tiny", evaluations=2, substeps=2, steps=4, batch_size=4, ema_decay=0.9, warmup_steps=2, sheet_every=1000,
    save_minutes=1e9, error_share=0.7, error_bank=6, detail_weight=1.0,
)  # fmt: skip


@cache
def made_once(num_res_blocks: int) -> ARTV:
    return smallest(num_res_blocks=num_res_blocks)


def small(sampling: SamplingConfig | None = None, num_res_blocks: int = 0) -> ARTV:
    """Without blocks on the way in, as no file may have it, unless there is to be a file."""
    model = deepcopy(made_once(num_res_blocks))
    model.config = replace(model.config, sampling=sampling or model.config.sampling)
    return model


def stage(**changes) -> DistillTraining:
    """A student of two evaluations, on six clips of noise."""
    torch.manual_seed(0)
    model, config = small().train(), TrainConfig(seed=5, distill=replace(STAGE, **changes))
    clips = LatentClips(torch.randn(6, 6, 4, 8, 8).half(), tuple(sample_clip(0, index).caption for index in range(6)))
    config = config.as_student
    made = DistillTraining(config, model, synthetic_clips(config, clips), small(GUIDED))
    made.sheet = lambda *_: {}  # type: ignore[method-assign]
    return made


# What a step should predict


@pytest.mark.parametrize("evaluations", [1, 2, 3, 4, 7])
def test_the_students_levels_are_those_of_sampling(evaluations: int):
    steps, sigmas = student_steps(SCHEDULE, evaluations, 3), SCHEDULE.sampling_sigmas(evaluations)
    starts = [step.levels[0].sigma for step in steps]
    assert starts == evaluated_sigmas("euler", sigmas)
    assert [step.end for step in steps] == sigmas[1:].tolist()
    for step in steps:
        levels = [level.sigma for level in step.levels]
        assert levels == sorted(levels, reverse=True)
        assert len(levels) == 3
        assert levels[-1] > step.end
        for level in step.levels:
            assert level.a**2 + level.s**2 == pytest.approx(1)
            assert level.timestep == pytest.approx(float(SCHEDULE.timestep(level.sigma)))


def test_together_the_teachers_levels_are_those_of_its_own_sampling():
    levels = [level.sigma for step in student_steps(SCHEDULE, 4, 5) for level in step.levels]
    torch.testing.assert_close(torch.tensor(levels), SCHEDULE.sampling_sigmas(20)[:-1].float())


@pytest.mark.parametrize("substeps", [1, 2, 5])
def test_with_the_goal_an_euler_step_ends_where_the_teachers_steps_end(substeps: int):
    def denoise(x: Tensor, sigma: float) -> Tensor:
        return torch.tanh(x / (1 + sigma**2) ** 0.5)

    generator = torch.Generator().manual_seed(0)
    for step in student_steps(SCHEDULE, 3, substeps):
        x = step.levels[0].sigma * torch.randn(2, 1, 3, 3, generator=generator, dtype=torch.float64)
        sigmas = torch.tensor([*(level.sigma for level in step.levels), step.end], dtype=torch.float64)
        ends = dpmpp_2m(
            lambda x, sigma: denoise(x, float(sigma)), x, sigmas, noise_sampler=lambda *_: pytest.fail("no noise")
        )
        found = goal(lambda x, level: denoise(x, level.sigma), x, step)
        torch.testing.assert_close(found + (x - found) * step.ratio, ends)
        if substeps == 1:
            torch.testing.assert_close(found, denoise(x, step.levels[0].sigma))


def test_the_goal_of_standard_normal_frames_is_the_closed_form():
    """If frames are standard normal, the flow scales x by the ratio of sqrt(1 + sigma^2)."""
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    for step in student_steps(SCHEDULE, 4, 40):
        start, end = step.levels[0].sigma, step.end
        ends = x * ((1 + end**2) / (1 + start**2)) ** 0.5
        exact = (ends - step.ratio * x) / (1 - step.ratio)
        found = goal(lambda x, level: x / (1 + level.sigma**2), x, step)
        torch.testing.assert_close(found, exact, rtol=0.01, atol=1e-4)


def test_a_teacher_that_always_says_the_same_is_the_goal():
    said = torch.full((1, 1, 2, 2), 0.7)
    for step in student_steps(SCHEDULE, 4, 3):
        torch.testing.assert_close(goal(lambda x, level: said, 150 * torch.ones_like(said), step), said)


# Guidance


def test_coefficients_sum_to_one_and_plain_guidance_needs_one_branch():
    branches, table = guidance_table(GUIDED)
    assert branches == list(CHAIN)
    assert [sum(row) for row in table] == pytest.approx([1] * 4)
    assert guidance_table(student_sampling(GUIDED, 4)) == ([CHAIN[-1]], [[1.0]] * 4)
    first_only = replace(student_sampling(GUIDED, 4), first_frame_guidance=3.0)
    assert guidance_table(first_only) == ([*CHAIN[2:]], [[-2, 3], [-2, 3], [0, 1], [0, 1]])


@pytest.mark.parametrize("has_reference", [False, True])
@pytest.mark.parametrize("has_anchor", [False, True])
def test_the_teacher_denoises_as_sampling_does(has_reference: bool, has_anchor: bool):
    """Guided and masked, a frame with references and one without side by side."""
    model = small(GUIDED)
    context = torch.randn(1, *model.null_context.shape)
    references, anchor, last, x = (torch.randn(1, size, 8, 8) for size in (8, 4, 4, 4))
    references, last = references * has_reference, last * has_reference
    anchor, levels = anchor * has_anchor, (30 * has_reference, 50 * has_anchor)
    inputs = FrameInputs(
        context, model.null_context, NoisedLatents(references, levels[0]), NoisedLatents(anchor, levels[1]),
        last if has_reference else None, has_anchor,
    )  # fmt: skip
    scales = (1.5, 0.5, 2.0) if has_reference else (1.5, 0.5, 3.0)
    usual = frame_denoiser(SCHEDULE, Conditioners.of(model), inputs, GuidanceScales(*scales))
    teacher = Teacher(model)

    def beside(mine: Tensor, other: Tensor) -> Tensor:
        return torch.cat([mine, other.expand_as(mine)])

    given = teacher.given(
        (
            context.repeat(2, 1, 1), beside(references, torch.ones(1)), beside(anchor, torch.ones(1)),
            torch.tensor([levels[0], 7]), torch.tensor([levels[1], 9]),
        ),
        beside(last, torch.zeros(1)),
        torch.tensor([float(has_reference), 1 - float(has_reference)]),
        torch.tensor([float(has_anchor), 1.0]),
    )  # fmt: skip
    for step in student_steps(SCHEDULE, 2, 1):
        level = step.levels[0]
        with torch.no_grad():
            found = teacher.networks.denoised(given, level.sigma * beside(x, torch.ones(1)), level)
        wanted = usual(level.sigma * x, torch.tensor(level.sigma, dtype=torch.float64))
        torch.testing.assert_close(found.masked[:1], wanted, atol=2e-4, rtol=1e-3)


def test_a_student_recommends_its_own_settings():
    config = replace(preset("tiny"), sampling=student_sampling(GUIDED, 4))
    options = GenerateOptions().resolved(config)
    assert (options.sampler, options.steps, options.eta) == ("euler", 4, 0)
    sigmas = SCHEDULE.sampling_sigmas(options.steps or 0, options.spacing)
    assert len(evaluated_sigmas("euler", sigmas, 0.0)) == 4
    assert options.reference_noise_level == GUIDED.reference_noise_level
    scales = GuidanceScales(1.0, 1.0, options.guidance_text)  # type: ignore[arg-type]
    assert [len(guidance_branches(scales, has, has, True)) for has in (False, True)] == [1, 1]
    assert options.first_frame_guidance == 1


# Training


def test_the_student_comes_nearer_to_its_teacher():
    made = stage(error_share=0.0, drop_text=0.0, learning_rate=2e-3)
    arguments = made.arguments(made.samples.batch(0, range(4)), CPU)
    optimizer = torch.optim.Adam([p for p in made.module.parameters() if p.requires_grad], 2e-3)
    losses = []
    for _ in range(12):
        loss, _ = made.module(*arguments)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]


def test_a_student_of_one_step_for_each_of_the_teachers_has_nothing_to_learn():
    made = stage(evaluations=3, substeps=1, error_share=0.0)
    made.module.teacher = Teacher(small(student_sampling(GUIDED, 3)))
    loss, _ = made.module(*made.arguments(made.samples.batch(0, range(4)), CPU))
    made.module.auxiliary_share = 0.0
    masked, _ = made.module(*made.arguments(made.samples.batch(0, range(4)), CPU))
    assert masked.item() < 1e-6 < loss.item(), "the noise network alone has no mask"


def test_a_frame_counts_by_the_root_of_its_error():
    made, floor = stage(), 0.01
    errors = torch.tensor([1e-4, 0.04, 4.0])[:, None, None, None].expand(-1, 4, 8, 8)
    sizes = torch.tensor([made.module._size(error[None].square()) for error in errors])
    torch.testing.assert_close(sizes, torch.tensor([1e-8 / (2 * floor), 0.0312, 3.99]), rtol=1e-3, atol=1e-7)
    assert made.module._size(errors.square()).item() == pytest.approx(sizes.mean().item())


def test_the_student_sees_errors_and_the_teacher_does_not():
    made = stage(error_share=1.0)
    assert made.module.bank is not None
    made.module.bank.put(torch.ones(6, 4, 8, 8), torch.ones(6))
    batch = made.samples.batch(0, range(4))
    seen = made.arguments(batch, CPU)
    true = stage(error_share=0.0).arguments(made.samples.batch(0, range(4)), CPU)
    has_reference, has_anchor = (seen[index][:, None, None, None] for index in (8, 9))
    torch.testing.assert_close(seen[7] - seen[12], torch.ones_like(seen[7]) * has_reference)
    torch.testing.assert_close(seen[5] - seen[11], batch.signal[:, 2, None, None, None] * has_anchor.expand_as(seen[5]))
    for mine, plain in zip(seen[10:], true[10:], strict=True):
        assert torch.equal(mine, plain)
    made.module(*seen)
    assert int(made.module.bank.written) == 6 + int(has_reference.sum())


def test_each_weight_is_trained():
    assert unused_parameters(stage()) == []


def test_the_teacher_is_beside_the_module_and_goes_where_it_goes():
    made = stage()
    held = {id(parameter) for network in made.module.teacher.parts for parameter in network.parameters()}
    assert not held & {id(parameter) for parameter in made.module.parameters()}
    assert [name for name in made.module.state_dict() if not name.startswith(("noise", "mask", "bank"))] == []
    made.module.to("meta")
    assert all(p.is_meta for network in made.module.teacher.parts for p in network.parameters())
    assert made.module.teacher.null_context.is_meta
    assert made.module.teacher.table.is_meta


def trained(
    folder: Path, steps: int, loop: type[Training], capture: type[Tapes] | None = None, resume: bool = False
) -> dict[str, Tensor]:
    """The weights after a run, which leaves the teacher as it is."""
    on_card = loop is ResidentTraining
    precision, substeps = ("bf16", 2) if on_card else ("no", 1)
    made = stage(steps=steps, substeps=substeps, resident=on_card, mixed_precision=precision, optimizer="muon")
    before = [parameter.clone() for network in made.module.teacher.parts for parameter in network.parameters()]
    result = dict(run_stage(made, folder, resume, capture and capture(), loop=loop).state_dict())
    after = [parameter for network in made.module.teacher.parts for parameter in network.parameters()]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    return result


@pytest.fixture(scope="module")
def in_one_go(tmp_path_factory: pytest.TempPathFactory) -> Callable[[type[Training]], dict[str, Tensor]]:
    """The weights after four steps, which are not captured."""
    return cache(lambda loop: trained(tmp_path_factory.mktemp("whole"), 4, loop))


@pytest.mark.parametrize(("loop", "capture"), [(Training, Tapes), (ResidentTraining, Tapes)])
def test_a_run_goes_on_to_the_bit(tmp_path: Path, in_one_go: Callable, loop: type[Training], capture):
    """Captured or not, in one go or in two: the same weights."""
    whole = in_one_go(loop)
    trained(tmp_path, 2, loop, capture)
    parts = trained(tmp_path, 4, loop, capture, resume=True)
    start = dict(stage().module.state_dict())
    assert whole.keys() == parts.keys() == start.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
    assert not torch.equal(whole["noise.diffusion_model.out.2.weight"], start["noise.diffusion_model.out.2.weight"])


def test_a_whole_step_is_captured_and_waits_for_nothing(tmp_path: Path):
    made = stage(resident=True, micro_batch=2)
    training = ResidentTraining(made, make_accelerator(made.config, tmp_path), tmp_path, Tapes())
    for step in range(2):
        training.step(step, [])
    assert training.whole.captured
    made = stage(resident=True)
    training = ResidentTraining(made, make_accelerator(made.config, tmp_path), tmp_path)
    teacher = made.module.teacher
    waits = DeviceWaits(
        made.model, training.module, *teacher.parts, teacher.null_context, teacher.table, resident_tensors(training)
    )
    with waits:
        for step in range(2):
            training.step(step, [])
    assert waits.where == []


# A whole run

SIZES = "model_channels=32, head_channels=16, channel_mult=[1], num_res_blocks=1, attention_levels=[0], norm_groups=8"
SMALLEST = f"overrides={{noise={{unet={{{SIZES}}}}}, mask={{unet={{{SIZES}}}}}}}"


def changed(teacher: Path | str, **changes) -> list[str]:
    settings = {
        "name": "student", "distill.teacher": teacher, "vae.start_from": teacher, "vae.steps": 0, "latents.clips": 4,
        "latents.frames": 4, "distill.steps": 2, "distill.batch_size": 2, "distill.sheet_rows": 1,
        "distill.sheet_columns": 2, "distill.evaluations": 2, "distill.substeps": 2, "distill.resident": "false",
    }  # fmt: skip
    settings |= {name.replace("__", "."): value for name, value in changes.items()}
    return [SMALLEST, *(f"{name}={value}" for name, value in settings.items())]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_checkpoint(small(GUIDED, num_res_blocks=1), path)
    return path


CONFIG = Path(__file__).resolve().parent.parent / "configs" / "tiny-student.toml"


def test_a_run_makes_a_checkpoint_that_recommends_its_few_steps(tmp_path: Path, teacher: Path):
    config = read_config(CONFIG, changed(teacher))
    assert config.stages == ("vae", "latents", "distill", "export")
    run(config, str(tmp_path))
    made = tmp_path / "student" / "student.safetensors"
    summary = describe_checkpoint(made)
    assert summary.config.sampling == student_sampling(GUIDED, 2)
    assert '"teacher": "teacher.safetensors"' in open_tensor_file(made).metadata["training"]
    student, source = load_checkpoint(made), load_checkpoint(teacher)
    assert student.text is not None
    assert source.text is not None
    pairs = zip(student.text.parameters(), source.text.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    assert any(
        not torch.equal(p, q) for p, q in zip(student.noise.parameters(), source.noise.parameters(), strict=True)
    )
    assert list((tmp_path / "student" / "distill").glob("sheet-*.png"))
    further = changed(teacher, distill__start_from=made, distill__evaluations=1)
    going_on = read_config(CONFIG, further).as_student
    begins = starting_model(going_on).noise.state_dict()
    assert all(torch.equal(tensor, begins[name]) for name, tensor in student.noise.state_dict().items())
    assert exported_model(going_on).sampling.steps == 1


def test_a_student_of_an_adapter_is_a_file_of_what_was_trained(tmp_path: Path, teacher: Path):
    """In the loop on the card, which the run above does not use."""
    config = read_config(CONFIG, changed(teacher, distill__train='["branches", "mask"]', distill__resident="true"))
    run(config, str(tmp_path))
    made = tmp_path / "student" / "student.safetensors"
    assert open_tensor_file(made).metadata["artv_parts"] == "branches,mask"
    assert open_tensor_file(made).metadata["artv_base"] == teacher.name
    student, source = load_checkpoint(made, base=teacher), load_checkpoint(teacher)
    assert student.config.sampling == student_sampling(GUIDED, 2)
    before = source.state_dict()
    same = {name: torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items()}
    assert all(same[name] for name in same if part_of_weight(name) == "unet")
    assert not all(same[name] for name in same if part_of_weight(name) == "branches")
    going_on = replace(config.as_student, base="sd.safetensors")
    adapter = replace(going_on, diffusion=replace(going_on.diffusion, start_from=str(made)))
    assert [_source(each).name for each in (adapter, going_on)] == ["sd.safetensors", teacher.name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distill__teacher": "nobody"}, "no such checkpoint: nobody"),
        ({"distill__evaluations": 0}, "distill.evaluations: got 0, at least 1 is needed"),
        ({"distill__substeps": 0}, "distill.substeps: got 0, at least 1 is needed"),
        ({"distill__evaluations": 501}, "got 501 evaluations of 2 substeps; together they can be at most 1000"),
        ({"distill__error_floor": 0}, "error_floor: got 0"),
        ({"distill__train": '["text"]'}, "accepted are unet, lora, branches, mask"),
        ({"distill__rollout_share": 0.1}, "rollout_share: got 0.1, only 0 is accepted; use error_share"),
        ({"vae__start_from": "small"}, "a student has the autoencoder of its teacher; set vae.start_from to"),
        ({"distill__steps": 0}, "distill.steps: got 0"),
        ({"distill__ema_decay": 2}, "distill.ema_decay: got 2"),
    ],
)
def test_wrong_settings_are_named(teacher: Path, changes: dict, message: str):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        read_config(CONFIG, changed(teacher, **changes))


def test_another_kind_of_teacher_is_refused(teacher: Path):
    config = read_config(CONFIG, changed("tiny", distill__start_from=teacher)).as_student
    with pytest.raises(ValueError, match=r"tiny-v3.*its noise is configured differently; name another teacher"):
        load_teacher(config, starting_model(config))


def test_a_teacher_that_reads_otherwise_is_refused(tmp_path: Path, teacher: Path):
    other, model = tmp_path / "other.safetensors", small(GUIDED, num_res_blocks=1)
    model.null_context += 1
    assert model.text is not None
    model.text.model.ln_final.bias.data += 1
    model.update_null_context()
    save_checkpoint(model, other)
    config = read_config(CONFIG, changed(teacher, distill__start_from=other)).as_student
    with pytest.raises(ValueError, match=r"cannot teach .*other.*: their text encoders differ"):
        load_teacher(config, starting_model(config))


def test_a_run_without_a_teacher_has_no_such_stage(tmp_path: Path):
    with pytest.raises(ValueError, match="no stage 'distill' in this run"):
        run(TrainConfig(), str(tmp_path), ["distill"])


def test_levels_are_plain_numbers():
    """So that a captured step has them in its operations."""
    assert all(
        type(number) is float for step in student_steps(SCHEDULE, 4, 3) for level in step.levels for number in level
    )
    assert Level._fields == ("sigma", "a", "s", "timestep")
