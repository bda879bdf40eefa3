"""Strange input for every reader of user files (`tests/strange.py`), that the checks can fail, and faults once found.

Hypothesis makes a hundred and fifty inputs for each reader, the same ones every time. For more, and other ones each
time: `ARTV_FUZZ_EXAMPLES=100000 python -m pytest tests/test_fuzz.py -k gets_through`.
"""

import dataclasses
import functools
import gc
import json
import mmap
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from artv_core.checkpoint import describe_checkpoint, load_checkpoint, read_part, save_checkpoint
from artv_core.commands.info import info_lines
from artv_core.config import MAX_BLOCKS, MAX_JSON_CHARACTERS, ARTVConfig, from_dict, preset, validate
from artv_core.files import tensor_file
from artv_core.files.tensor_file import open_tensor_file
from artv_core.models.artv import ARTV
from artv_core.prompts.grammar import MAX_CHARACTERS, MAX_PROMPTS, parse_prompt_schedule
from artv_core.run.pipeline import load_latents, save_latents
from tests.counted import counted_calls

hypothesis = pytest.importorskip("hypothesis")

from hypothesis import strategies as st  # noqa: E402

from tests import strange  # noqa: E402

ROOT = Path(__file__).parent.parent
EXAMPLES = {"longest schedule": 15}


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """All that a text encoder needs is loaded first, and what is there by then is not searched for garbage each time
    that memory is measured."""
    load_checkpoint(ROOT / "artv_core/checkpoints/tiny-v3.safetensors")
    gc.collect()
    gc.freeze()


def examined(target: strange.Target, examples: int, random: bool = False) -> list[bool]:
    """Whether each input was taken. Fails with the smallest input that does what none may do."""
    taken: list[bool] = []
    health = hypothesis.HealthCheck
    unhealthy = [health.too_slow, health.data_too_large, health.large_base_example, health.filter_too_much]
    with strange.Sandbox(target.prepare) as box:

        @hypothesis.settings(
            max_examples=examples, deadline=None, derandomize=not random, database=None, suppress_health_check=unhealthy
        )
        @hypothesis.given(target.inputs)
        def gets_through(value: object) -> None:
            was_taken, faults = strange.examine(target, value, box)
            taken.append(was_taken)
            assert faults == []

        gets_through()
    return taken


@pytest.mark.parametrize("name", strange.TARGETS)
def test_no_input_gets_through(name: str):
    more = int(os.environ.get("ARTV_FUZZ_EXAMPLES", 0))
    examined(strange.TARGETS[name], 2)  # libraries are loaded with the first ones
    memory = strange.Memory()
    taken = examined(strange.TARGETS[name], more or EXAMPLES.get(name, 150), random=more > 0)
    assert memory.grown() < 150  # hypothesis itself remembers what it has tried
    if name not in EXAMPLES:
        # Which inputs are tried depends on the release of hypothesis.
        assert len(taken) / 20 < sum(taken) < 19 * len(taken) / 20, "inputs should be neither all fine nor all hopeless"


# That it can fail


def faults(check: Callable[[Path], object]) -> str:
    """What is said of a reader that does this."""
    target = strange.Target(st.none(), lambda value, folder: check(folder))
    with strange.Sandbox(target.prepare) as box:
        return " | ".join(strange.examine(target, None, box)[1])


def refuse(message: str) -> None:
    raise ValueError(message)


@pytest.mark.parametrize(
    ("check", "fault"),
    [
        (lambda folder: [][0], "IndexError in test_fuzz.py:"),
        (lambda folder: sys.exit(3), "SystemExit in "),
        (lambda folder: exec("raise RecursionError('deep')"), "RecursionError in "),
        (lambda folder: refuse("one\ntwo"), "not one line"),
        (lambda folder: refuse("\x1b[31m"), "not one line"),
        (lambda folder: refuse("x" * 2000), "refused with 2000 characters"),
        (lambda folder: refuse(""), "without a message"),
        (lambda folder: (folder / "../elsewhere").write_text("x"), "outside its folder: open"),
        (lambda folder: os.replace(folder / "../outside.artvj", folder / "moved"), "removed outside.artvj"),
        (lambda folder: os.mkdir(Path.home() / "x"), "outside its folder: wrote"),
        (lambda folder: os.system("true > ../elsewhere"), "wrote "),
        (lambda folder: os.system("true"), "outside its folder: os.system"),
        (lambda folder: (folder / "x.partial").touch(), "left x.partial"),
    ],
)
def test_faults_are_seen(check, fault):
    assert fault in faults(check)


def test_what_is_in_order_is_no_fault():
    assert faults(lambda folder: refuse("no such file")) == ""
    assert faults(lambda folder: (folder / "new").mkdir()) == ""
    assert faults(lambda folder: (folder / "new").write_text("x")) == ""


def spend(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_slowness_is_a_fault_but_waiting_for_the_processor_is_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(strange, "SECONDS", 0.1)
    assert "took 0." in faults(lambda folder: spend(0.15))
    assert faults(lambda folder: time.sleep(0.15)) == ""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux says what the peak was")
def test_memory_is_seen_though_it_was_given_back():
    memory = strange.Memory()
    # Not by bytearray: that may lie where earlier tests left free memory, and then the process does not grow.
    with mmap.mmap(-1, 150_000_000) as pages:
        for start in range(0, len(pages), mmap.PAGESIZE):
            pages[start] = 1
    assert 140 < memory.grown() < 200


def test_a_fault_is_made_small():
    """Hypothesis hands over the smallest text that the check cannot take."""

    def refuses_foxes(value: object, folder: Path) -> None:
        if "x" in str(value):
            raise KeyError("fox")

    with pytest.raises(AssertionError, match="KeyError") as caught:
        examined(strange.Target(strange.TEXT | st.just("a fox"), refuses_foxes), 200)
    assert "value='x'" in str(caught.value.__notes__) or "a fox" in str(caught.value.__notes__)


# Schedules


def parsed(text: str, **settings: object) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_prompt_schedule(text, **{"segment_frames": 8, **settings})
    return str(caught.value)


@pytest.mark.parametrize("text", ["0: a, " + "9" * 5000 + ": b", "0" * 5000 + "s: a"])
def test_long_times_are_not_repeated_in_full(text):
    assert len(parsed(text)) < 150


def test_more_prompts_than_anyone_has_are_refused_soon():
    with counted_calls() as calls:
        message = parsed("a\n" * (MAX_CHARACTERS // 2))
    assert message.startswith(f"prompts, line {MAX_PROMPTS + 1}, column 1: this is one prompt more than")
    assert calls.number < 8 * MAX_CHARACTERS
    assert len(parse_prompt_schedule("a\n" * MAX_PROMPTS, segment_frames=1).segments) == MAX_PROMPTS


# Headers


def header(text: str, body: bytes = b"") -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data + body


def tensor(kind: str, shape: str, size: int = 0) -> str:
    return f'{{"dtype":"{kind}","shape":{shape},"data_offsets":[0,{size}]}}'


def refusal(read: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        read(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= strange.MESSAGE
    return str(caught.value)


LIMIT = 4 * 2**20 - 200
"""More than any header needs but for long texts, such as a picture in the metadata."""
CROWDED = {
    "tensors": "{" + ",".join(f'"{i:x}":{tensor("U8", "[0]")}' for i in range(LIMIT // 60)) + "}",
    "fewer tensors": "{" + ",".join(f'"{i:x}":{tensor("U8", "[0]")}' for i in range(11_000)) + "}",
    "dimensions": f'{{"a":{tensor("U8", "[0" + ",0" * (LIMIT // 2) + "]")}}}',
    "fewer dimensions": f'{{"a":{tensor("U8", "[0" + ",0" * 500_000 + "]")}}}',
    "metadata": '{"__metadata__":{' + ",".join(f'"{i:x}":""' for i in range(LIMIT // 12)) + "}}",
    "escaped names": "{" + ",".join(['"\\\\":""'] * (LIMIT // 8)) + "}",
    "escapes": '{"__metadata__":{"a":"' + '\\"' * (LIMIT // 2),
    "long text": '{"__metadata__":{"a":"' + "a " * (LIMIT // 2 - 10) + '\U0001f98a"}}',
    "long name": f'{{"{"a" * (LIMIT - 100)}":{tensor("U8", "[0]")}}}',
    "deep": '{"a":' + "[" * LIMIT,
    "unknown": '{"a":{"x":[[]' + ",[]" * (LIMIT // 3) + "]}}",
    "spaces": "{" + " " * LIMIT + "}",
    "configuration": json.dumps({"__metadata__": {"artv_config": '{"size":[' + "[]," * (LIMIT // 3) + "[]]}"}}),
    "parts": json.dumps({"__metadata__": {"artv_config": "{}", "artv_parts": "," * LIMIT}}),
}


@pytest.mark.parametrize("content", CROWDED)
@pytest.mark.parametrize("read", [load_checkpoint, describe_checkpoint, load_latents])
def test_a_crowded_header_costs_little(read, content, tmp_path):
    path = tmp_path / "crowded.safetensors"
    path.write_bytes(header(CROWDED[content]))
    assert path.stat().st_size <= LIMIT + 208
    memory = strange.Memory()
    with counted_calls() as calls:
        refusal(read, path)
    assert calls.number < LIMIT
    assert memory.grown() < 60


@pytest.mark.parametrize("read", [load_checkpoint, describe_checkpoint, load_latents])
def test_the_longest_text_costs_a_few_times_its_size(read, tmp_path):
    path = tmp_path / "long.safetensors"
    text = "a" * (tensor_file._HEADER_LIMIT - 200)
    path.write_bytes(header('{"__metadata__":{"a":"' + text + f'"}},"b":{tensor("U8", "[0]")}}}'))
    memory = strange.Memory()
    with counted_calls() as calls:
        refusal(read, path)
    assert calls.number < 2**20
    assert memory.grown() < 5 * tensor_file._HEADER_LIMIT / 2**20


def test_a_header_beyond_the_limit_is_not_read(tmp_path):
    path = tmp_path / "long.safetensors"
    path.write_bytes(header("{" + " " * (60 * 2**20) + "}"))
    memory = strange.Memory()
    assert "its header claims" in refusal(load_checkpoint, path)
    assert memory.grown() < 5


def test_what_others_put_into_headers_is_read(tmp_path):
    """Two megabytes of notes by a training tool, tags in JSON in JSON; twice the tensors of a large model."""
    notes = json.dumps({f"tag {i}, \\ {i}": i for i in range(80_000)})
    assert len(notes) > 2e6
    save_file({str(i): torch.zeros(1) for i in range(5000)}, tmp_path / "a.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "b.safetensors", {"ss_tag_frequency": notes[:2_000_000]})
    assert len(open_tensor_file(tmp_path / "a.safetensors").tensors) == 5000
    assert len(open_tensor_file(tmp_path / "b.safetensors").metadata["ss_tag_frequency"]) == 2_000_000


@pytest.mark.parametrize(
    "shape",
    [f"[{2**62},0]", f"[{2**63},0]", f"[0,{2**64 - 1}]", f"[{2**32},{2**32}]", "[-1]", "[1.0]", f"[0{',1' * 20}]"],
)
def test_shapes_that_no_tensor_has(shape, tmp_path):
    path = tmp_path / "shape.safetensors"
    path.write_bytes(header(f'{{"__metadata__":{{"artv_config":"{{}}"}},"null_context":{tensor("F32", shape)}}}'))
    for read in (load_checkpoint, describe_checkpoint, load_latents, functools.partial(read_part, part="branches")):
        assert "is damaged" in refusal(read, path)


def test_types_of_numbers_that_torch_lacks(tmp_path):
    path = tmp_path / "six.safetensors"
    path.write_bytes(header(f'{{"first_stage_model.x":{tensor("F6_E2M3", "[4]", 3)}}}', bytes(3)))
    assert "cannot read first_stage_model.x" in refusal(functools.partial(read_part, part="vae"), path)


# Checkpoints


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    path.write_bytes(strange.whole_checkpoint())
    return path


def rewrite(path: Path, change: Callable[[dict], object]) -> Path:
    """The same file with another header."""
    whole = path.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    parts = json.loads(whole[8 : 8 + length])
    change(parts)
    path.write_bytes(header(json.dumps(parts), whole[8 + length :]))
    return path


def with_config(path: Path, text: str) -> Path:
    return rewrite(path, lambda parts: parts["__metadata__"].update(artv_config=text))


def test_the_small_model_is_sound(small):
    assert load_checkpoint(small).config == strange.SMALL
    assert describe_checkpoint(small).parts == ("unet", "branches")


@pytest.mark.parametrize("kind", ["F6_E2M3", "C64", "I64"])
def test_a_scale_of_another_type_that_no_part_needs(kind, small):
    rewrite(small, lambda parts: parts.update(vae_scale=json.loads(tensor(kind, "[0]"))))
    rewrite(small, lambda parts: parts["__metadata__"].update(artv_parts="unet,branches,vae"))
    message = refusal(functools.partial(load_checkpoint, without=("vae",)), small)
    assert f"vae_scale is {kind} [0], expected a single number" in message


def test_a_long_list_of_faults_is_cut(small):
    def rename(parts: dict) -> None:
        for key in [key for key in parts if key != "__metadata__"]:
            parts["model.diffusion_model." + "x" * 300 + key] = parts.pop(key)

    assert "missing keys" in refusal(load_checkpoint, rewrite(small, rename))


def test_notes_are_shown_in_lines_of_their_own(small):
    rewrite(small, lambda parts: parts["__metadata__"].update({"a\n\x1b[31mb": "one\ntwo " * 100_000}))
    summary = describe_checkpoint(small)
    assert summary.metadata["a  [31mb"].startswith("one two one two")
    assert all(line.isprintable() and len(line) < 500 for line in info_lines(summary))


def test_no_more_is_noted_than_can_be_read(tmp_path):
    model = ARTV(strange.SMALL, text=False, vae=False)
    path = tmp_path / "notes.safetensors"
    save_checkpoint(model, path, extra_metadata={"notes": "\x00" * 500_000})
    assert describe_checkpoint(path).metadata["notes"].startswith("  ")
    with pytest.raises(ValueError, match="accepted are up to 1000000"):
        save_checkpoint(model, path, extra_metadata={"notes": "x" * 1_000_000})


# Configurations

UNET = {"model_channels": 32, "head_channels": 8, "norm_groups": 8, "context_dim": 48}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"fps": NaN}', "NaN is not a valid number"),
        ('{"fps": -Infinity}', "-Infinity is not a valid number"),
        ('{"fps": 1e999}', "artv_config.fps: got inf"),
        ('{"fps": 0}', "artv_config.fps: got 0.0, accepted are 0.01 to 1000"),
        ('{"fps": ' + "9" * 400 + "}", "artv_config.fps: got an integer of more than 63 bits, which is too large"),
        ('{"fps": ' + "9" * 5000 + "}", "not valid JSON"),
        ('{"sampling": {"guidance_text": 1e999}}', "artv_config.sampling.guidance_text: got inf"),
        ('{"sampling": {"steps": 9223372036854775808}}', "artv_config.sampling.steps"),
        ('{"name": "a\\nb"}', "artv_config.name: got 'a\\nb', accepted are up to 200 printable characters"),
        ('{"name": "\\u001b[31m"}', "artv_config.name"),
        ('{"name": "' + "x" * 201 + '"}', "artv_config.name: got 'xxx"),
        ('{"vocabulary": ["\\ud800"]}', "artv_config.vocabulary"),
        ('{"vocabulary": [' + '"",' * 10_000 + '""]}', "artv_config.vocabulary (length): got 10001"),
        ('{"vocabulary": "' + "x" * MAX_JSON_CHARACTERS + '"}', f"accepted are up to {MAX_JSON_CHARACTERS}"),
        ('{"name": ' + "[" * 100_000 + "}", "not valid JSON"),
        (f'{{"name": {"[" * 900}{"]" * 900}}}', "artv_config"),
        ('{"size": [' + "0," * 100_000 + "0]}", "expected 2 values, got 100001"),
        ('{"noise": {"unet": {"attention_levels": [' + "0," * 9000 + "0]}}}", "attention_levels (length)"),
        ('{"noise": {"unet": {"channel_mult": [' + "1," * 9000 + "1]}}}", "channel_mult (levels)"),
        ('{"noise": {"unet": {"transformer_depth": 16}}}', "number of blocks"),
        ('{"noise": {"unet": {"num_res_blocks": 8}}}', "number of blocks"),
        ('{"' + "x" * 100_000 + '": 1}', "unknown field 'xxx"),
    ],
)
def test_configurations_that_no_model_has(text, words, small):
    for read in (load_checkpoint, describe_checkpoint):
        assert words in refusal(read, with_config(small, text))


def test_values_for_a_training_are_no_traceback_either():
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    for value in (deep, 10**400, {"a": deep}):
        with pytest.raises(ValueError, match=r"artv_config\.fps: "):
            from_dict(ARTVConfig, {"fps": value}, "artv_config")


@pytest.mark.parametrize(
    "unet",
    [
        {"channel_mult": [1], "attention_levels": [0], "num_res_blocks": 1, "transformer_depth": 14},
        {"channel_mult": [1] * 3, "attention_levels": [], "num_res_blocks": 8, "transformer_depth": 8},
        {"channel_mult": [1] * 8, "attention_levels": [0, 1, 2], "num_res_blocks": 2},
    ],
)
def test_the_largest_model_is_refused_soon(unet, small):
    """As many blocks as are accepted, twice, and every other part."""
    network = {"unet": {**UNET, **unet}, "adapter": {"num_blocks": 8}}
    text = {"width": 48, "heads": 2, "layers": 64}
    config = {"noise": network, "mask": json.loads(json.dumps(network)), "text": text}
    config["mask"]["unet"]["out_channels"] = 1
    rewrite(small, lambda parts: parts["__metadata__"].pop("artv_parts"))
    with_config(small, json.dumps(config))
    memory = strange.Memory()
    with counted_calls() as calls:
        message = refusal(load_checkpoint, small)
    assert "missing keys" in message
    assert calls.number < 2_000_000
    assert memory.grown() < 60


def test_presets_are_well_within_the_limits():
    for name in ("tiny", "sd21"):
        config = preset(name)
        validate(config)
        unet = dataclasses.replace(config.noise.unet, num_res_blocks=3)
        validate(dataclasses.replace(config, noise=dataclasses.replace(config.noise, unet=unet)))
    assert MAX_BLOCKS > 22 + 16


# Latents


def latents_file(path: Path, shape: list[int], size: int = 0, **metadata: str) -> Path:
    parts = {
        "__metadata__": {"artv_latents": "1", "seed": "7", **metadata},
        "latents": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]},
    }
    path.write_bytes(header(json.dumps(parts), bytes(size)))
    return path


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ([1, 257, 1, 1, 1], 4 * 257),
        ([1, 1, 65, 1, 1], 4 * 65),
        ([1, 1, 1, 2049, 1], 4 * 2049),
        ([1, 1, 1, 1, 2049], 4 * 2049),
        ([0, 1, 4, 8, 8], 0),
        ([2**40, 0, 1, 1, 1], 0),
        ([1, 4, 8, 8], 1024),
    ],
)
def test_latents_of_sizes_that_nobody_saved(shape, size, tmp_path):
    path = latents_file(tmp_path / "latents.safetensors", shape, size)
    assert "does not contain latents of frames" in refusal(load_latents, path)


def test_what_latents_were_made_with_is_not_without_end(tmp_path):
    path = tmp_path / "latents.safetensors"
    assert load_latents(latents_file(path, [1, 1, 1, 1, 1], 4, made_with="x" * 500_000)).seed == 7
    latents_file(path, [1, 1, 1, 1, 1], 4, made_with="x" * 500_001)
    assert "does not contain" in refusal(load_latents, path)


def test_other_tensors_beside_latents_are_not_read(tmp_path):
    path = tmp_path / "latents.safetensors"
    save_latents(path, [torch.ones(1, 4, 2, 2)], seed=3)
    rewrite(path, lambda parts: parts.update(more=json.loads(tensor("F6_E2M3", "[0]"))))
    saved = load_latents(path)
    assert torch.equal(saved.latents, torch.ones(1, 1, 4, 2, 2))
    path.write_bytes(path.read_bytes()[:-4] + struct.pack("<f", float("nan")))
    assert "infinite or not a number" in refusal(load_latents, path)


# Arguments


@hypothesis.settings(max_examples=5, derandomize=True, database=None, deadline=None)
@hypothesis.given(st.data())
def test_every_command_and_option_is_tried(data: st.DataObject):
    """The inputs know the parser, so that what is added there is tried, with values of its kind."""
    for command, actions in strange.commands().items():
        for action in actions:
            words = strange._argument(data.draw, action)
            assert len(words) == bool(action.option_strings) + (action.nargs != 0) or "=" in words[0] or len(words) == 3
            assert not action.option_strings or words[0].partition("=")[0] in action.option_strings, command
