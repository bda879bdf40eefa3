"""Errors with a remedy: the core names it, and each user interface says where it is."""

import copy
import pickle

import pytest

from artv_core import cli
from artv_core.checkpoint import load_checkpoint, save_checkpoint
from artv_core.commands import info
from artv_core.config import preset
from artv_core.files.user_errors import Remedy, UserError
from artv_core.method.generate import VideoRequest
from artv_core.method.options import GenerateOptions
from artv_core.method.text_track import TextSegment, TextTrack
from tests.models import untrained
from tests.pack import pack_module

ERROR = UserError("no room", Remedy.NO_JOURNAL, before="make room, or ", after=" today")


def test_a_remedy_is_in_the_words_of_whoever_shows_it():
    assert str(ERROR) == "no room; make room, or do without a journal today"
    assert ERROR.phrased({Remedy.NO_JOURNAL: "use --no-journal"}) == "no room; make room, or use --no-journal today"
    checks = pack_module("nodes.checks")
    theirs = pack_module("artv_core.files.user_errors")
    error = theirs.UserError("no VAE", theirs.Remedy.BASE)
    assert checks.told(error) == "no VAE; choose its base in the menu 'base' of ARTV Loader"
    assert checks.told(ValueError("plain")) == "plain"
    with pytest.raises(ValueError, match="menu 'base'"), checks.faults_named():
        raise error


def test_every_remedy_has_words_in_both_interfaces():
    assert set(cli.WHERE) == set(Remedy)
    names = {remedy.name for remedy in pack_module("nodes.checks").WHERE}
    assert names == {remedy.name for remedy in Remedy}


@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_it_passes_from_one_process_to_another(again):
    assert str(again(ERROR)) == str(ERROR)
    assert again(ERROR).remedy is Remedy.NO_JOURNAL


def test_the_command_line_says_which_option(monkeypatch, capsys):
    def run(_: object) -> int:
        raise ERROR

    monkeypatch.setattr(info, "run_info", run)
    assert cli.main(["info"]) == cli.USER_ERROR
    assert capsys.readouterr().err == "artv: no room; make room, or do without a journal (--no-journal) today\n"


def test_training_names_its_option_for_a_base(tmp_path, capsys):
    model = untrained()
    save_checkpoint(model, tmp_path / "part.safetensors", parts=("branches", "mask"), base="base.safetensors")
    with pytest.raises(UserError, match=r"needs its base checkpoint \(base.safetensors\); name a base checkpoint"):
        load_checkpoint(tmp_path / "part.safetensors")
    config = tmp_path / "run.toml"
    part = (tmp_path / "part.safetensors").as_posix()
    config.write_text(f'base = "{part}"\n[data]\npath = "{tmp_path.as_posix()}"\n')
    assert cli.main(["train", "--config", str(config), "--output", str(tmp_path / "runs")]) == 2
    assert "name a base checkpoint with --base" in capsys.readouterr().err


def test_options_that_are_not_resolved_are_refused():
    text = TextTrack([TextSegment(0, untrained().null_context)])
    options = GenerateOptions(num_frames=2)
    with pytest.raises(ValueError, match=r"not resolved; give options.resolved\(model.config\)"):
        VideoRequest(text, options)
    assert VideoRequest(text, options.resolved(preset("tiny"))).options.steps
