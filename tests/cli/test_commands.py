"""The verbs without a network: help, errors, files, options."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest

from gossipnode.cli import app, describe, reference
from gossipnode.cli.flags import read_config
from gossipnode.cli.init import node_file
from gossipnode.config import Config
from gossipnode.config.listing import options
from gossipnode.configfile import load_config, load_peers
from gossipnode.errors import (
    ConfigError,
    DataError,
    NetworkError,
    PeerError,
    StorageError,
    TrainingError,
)
from gossipnode.learning.learner import build_learner
from gossipnode.learning.modelfile import save_model
from gossipnode.registry import ALGORITHMS, FORMS

ROOT = Path(__file__).parents[2]
GROUPS = {
    "model": ("pull", "eval"),
    "ca": ("create", "issue", "revoke", "show"),
    "trust": ("add", "remove", "show"),
}
LEAVES = [
    *(verb for verb in app.VERBS if verb not in GROUPS),
    *(f"{verb} {name}" for verb, names in GROUPS.items() for name in names),
]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch, tmp_path):
    for option in options():
        monkeypatch.delenv(option.env, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("verb", LEAVES)
def test_every_help_has_examples_and_exit_codes(verb, capsys):
    assert app.run([*verb.split(), "--help"]) == app.OK
    text = capsys.readouterr().out
    assert f"  gossipnode {verb}" in text.split("Examples:")[1]
    assert re.search(r"^ *0 +done$", text.split("Exit codes:")[1], re.MULTILINE)


def test_help_lists_choices_once_and_speaks_of_no_file_where_there_is_none(capsys):
    assert app.run(["start", "--help"]) == app.OK
    text = " ".join(capsys.readouterr().out.split())
    for option in options():
        words = describe.choices(option)
        if words and option.flag:
            assert f"{option.flag} WORD" in text
            assert "[" + "|".join(words) + "]" not in text
            named = option.key == "algorithm.name"
            for field in describe.variants(option).values():
                assert ", ".join(words if named else describe.words(field)) in text
    assert "this file" not in text
    assert "Path of peers.toml, relative to here." in text


@pytest.mark.parametrize("verb", app.VERBS)
def test_the_short_help_is_the_verbs_own(verb):
    command = app.root.get_command(click.Context(app.root), verb)
    assert command is not None
    # `start` and `status` say more in their own help; each begins with the same word.
    assert command.get_short_help_str(200).split()[0] == app.VERBS[verb].split()[0]


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("swarn", "'swarm'"),
        ("start --rouns 3", "--rounds"),
        ("start --set run.round=3", "'run.rounds'"),
        ("start --set run.rounds", "section.key=value"),
        ("start --rounds many", "run.rounds"),
        ("start --topology rign", "'ring'"),
        ("start --bind", "--bind"),
        ("status --interval-s 0", "0.1"),
    ],
)
def test_wrong_usage_is_one_line_that_helps(line, hint, capsys):
    assert app.run(line.split()) == app.USAGE
    told = capsys.readouterr()
    assert told.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", told.err)
    assert hint in told.err


def ranged(command, words=()):
    """Every option that is a number in a range, with the words of its verb."""
    for name in command.list_commands(None):
        verb = command.get_command(None, name)
        if isinstance(verb, click.Group):
            yield from ranged(verb, (*words, name))
        for option in verb.params:
            if isinstance(option.type, click.FloatRange):
                yield (*words, name), option


RANGES = list(ranged(app.root))
# What a verb cannot do without, so that the number is all that is wrong.
ARGUMENTS = {("model", "eval"): ["model.safetensors"], ("topology",): ["ring"]}


@pytest.mark.parametrize("value", ["nan", "-nan", "inf", "-inf", "1e400"])
@pytest.mark.parametrize(
    ("verb", "option"), RANGES, ids=[f"{' '.join(verb)} {option.name}" for verb, option in RANGES]
)
def test_a_number_is_finite(verb, option, value, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    line = [*verb, *ARGUMENTS.get(verb, []), f"{option.opts[0]}={value}"]
    assert app.run(line) == app.USAGE
    error = capsys.readouterr().err
    assert option.opts[0] in error
    assert "finite" in error or "not in the range" in error
    assert not list(tmp_path.iterdir())


def test_there_are_numbers_to_try():
    named = {" ".join([*verb, option.opts[0]]) for verb, option in RANGES}
    assert {"simulate --latency", "model eval --test-fraction", "plan --bits"} <= named


def test_an_unknown_variable_is_an_error_but_clicks_own_is_not(monkeypatch, capsys):
    monkeypatch.setenv("GOSSIPNODE_RUN_ROUND", "3")
    assert app.run(["start"]) == app.USAGE
    assert "did you mean 'GOSSIPNODE_RUN_ROUNDS'" in capsys.readouterr().err
    monkeypatch.delenv("GOSSIPNODE_RUN_ROUND")
    monkeypatch.setenv("_GOSSIPNODE_COMPLETE", "")
    assert read_config(None, (), {}) == Config()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (DataError("x"), 2),
        (NetworkError("x"), 3),
        (PeerError("busy", "x"), 3),
        (StorageError("x"), 4),
        (TrainingError("x"), 5),
    ],
)
def test_exit_codes(error, code):
    assert app.exit_code(error) == code


def test_exit_codes_are_those_of_the_daemon():
    from gossipnode.network import ExitCode, exit_code

    for error in (ConfigError("x"), DataError("x"), NetworkError("x"), StorageError("x")):
        assert app.exit_code(error) == exit_code(error)
    assert {int(code) for code in ExitCode} <= set(app.EXIT_CODES)


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys; from gossipnode.cli.app import run; run(['--help']);"
        "heavy = {'numpy', 'pydantic', 'aiohttp', 'rich', 'asyncio'} & sys.modules.keys();"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def modules_after(code: str) -> set[str]:
    """What a fresh interpreter has imported once ``code`` has run."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "loaded"),
    [
        ("--algorithm gossip --period-s 3", {"gossip_learning"}),
        ("--algorithm=choco --gamma 0.5", {"choco"}),
        ("--algorithm d2 --form d2", {"correction"}),
        ("--rounds 3", set()),
        ("--period-s 3", {"gossip_learning", "choco", "correction"}),
    ],
)
def test_flags_load_the_named_algorithm_alone(words, loaded):
    code = (
        "from gossipnode.cli.start import command; from gossipnode.cli.flags import split_flags; "
        f"context = command.make_context('start', {words.split()}); "
        "assert split_flags(context.params)"
    )
    prefix = "gossipnode.algorithms."
    known = {f"{prefix}{name}" for name in ("gossip_learning", "choco", "correction")}
    assert modules_after(code) & known == {f"{prefix}{name}" for name in loaded}


def test_a_client_comes_without_the_node_and_a_node_without_joining():
    client = modules_after("from gossipnode.network import HttpClient")
    assert "gossipnode.network.client" in client
    assert not {"gossipnode.network.server", "gossipnode.node.node"} & client
    node = modules_after("import gossipnode.cli.start")
    assert "gossipnode.network.daemon" in node
    assert not {"gossipnode.cli.join", "safetensors"} & node


def test_the_collector_rests_until_the_verb_is_imported():
    code = (
        "import gc; from gossipnode.cli import app, process; process.rest_the_collector(); "
        "assert not gc.isenabled(); app.root.get_command(None, 'version'); "
        "assert gc.isenabled() and gc.get_freeze_count(); gc.unfreeze(); "
        "app.root.get_command(None, 'plan'); assert not gc.get_freeze_count()"
    )
    modules_after(code)


def test_version(capsys):
    assert app.run(["version", "--json"]) == app.OK
    told = json.loads(capsys.readouterr().out)
    assert told["numpy"] == np.__version__
    assert set(told) == {"gossipnode", "wire", "python", "numpy", "aiohttp"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell, capsys):
    assert app.run(["completion", shell]) == app.OK
    assert "_GOSSIPNODE_COMPLETE" in capsys.readouterr().out


# -- init, options, reference ------------------------------------------------------------------


def test_init_writes_files_that_load(capsys):
    assert app.run(["init", "etc", "--json"]) == app.OK
    paths = json.loads(capsys.readouterr().out)
    config = load_config(paths["node"])
    assert config.model_dump(exclude={"swarm": {"peers"}}) == Config().model_dump(
        exclude={"swarm": {"peers"}}
    )
    # Its path is relative to the file, not to where the command is run.
    assert len(load_peers(read_config(Path(paths["node"]), (), {}).swarm.peers)) == 1


def test_init_does_not_overwrite_unless_forced(capsys):
    Path("peers.toml").write_text("mine")
    assert app.run(["init"]) == app.USAGE
    assert "--force" in capsys.readouterr().err
    assert Path("peers.toml").read_text() == "mine"
    assert not Path("node.toml").exists()
    assert app.run(["init", "--force"]) == app.OK
    assert Path("peers.toml").read_text() != "mine"


def test_init_on_a_full_disk_leaves_what_was_there(capsys, monkeypatch):
    def full(path, *_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def half(path, *_, **__):
        path.open("w").close()
        full(path)

    Path("node.toml").write_text("mine")
    # However it is written, the bytes do not reach the disk.
    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(Path, "write_text", half)
    assert app.run(["init", "--force"]) == app.STORAGE
    assert "node.toml: cannot be written: No space left" in capsys.readouterr().err
    assert Path("node.toml").read_text() == "mine"
    assert [path.name for path in Path().iterdir()] == ["node.toml"]


def test_every_line_of_node_toml_may_be_uncommented(tmp_path):
    text = node_file()
    every = re.sub(r"(?m)^#(?=\w+ = )", "", text)
    assert every.count("\n#") < text.count("\n#")
    (tmp_path / "all.toml").write_text(every)
    given = load_config(tmp_path / "all.toml")
    for option in options("dpsgd"):
        assert option.name in getattr(given, option.section).model_fields_set, option.key


@pytest.mark.parametrize("name", [*ALGORITHMS, *FORMS])
def test_node_toml_loads_with_the_name_of_any_algorithm(name, tmp_path):
    text = node_file().replace('name = "dpsgd"', f'name = "{name}"')
    (tmp_path / "node.toml").write_text(text)
    config = load_config(tmp_path / "node.toml")
    assert config.algorithm.name == FORMS.get(name, name)
    assert config.algorithm.model_fields_set <= {"name", "form"}


def test_node_toml_names_every_option_of_the_default_algorithm_once():
    named = re.findall(r"(?m)^(?:\[(\w+)\]|#?(\w+) = )", node_file())
    keys, section = [], ""
    for table, name in named:
        section = table or section
        if name:
            keys.append(f"{section}.{name}")
    assert sorted(keys) == sorted(option.key for option in options("dpsgd"))
    assert "docs/algorithms.md" in node_file()


def test_the_reference_page_is_current():
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert page == reference.reference(), "run: python -m gossipnode.cli.reference > docs/config.md"


def test_the_example_of_peers_loads():
    entries = load_peers(ROOT / "peers.example.toml")
    assert [entry.id for entry in entries] == ["alpha", "beta", "gamma"]


def test_every_flag_sets_its_option():
    from gossipnode.cli.start import command

    # A flag that nobody has: those of every algorithm are asked.
    command.make_context("start", ["--nobodys"], resilient_parsing=True)
    flags = {p.name: p for p in command.params}
    for option in options():
        name = f"{option.section}__{option.name}"
        assert (name in flags) == bool(option.flag), option.key
        if option.flag:
            assert option.flag in flags[name].opts


def test_layers_override_each_other(monkeypatch, tmp_path):
    path = tmp_path / "node.toml"
    path.write_text("[run]\nrounds = 1\nevaluate_every = 1\n[training]\nbatch_size = 1\n")
    monkeypatch.setenv("GOSSIPNODE_RUN_ROUNDS", "2")
    monkeypatch.setenv("GOSSIPNODE_RUN_EVALUATE_EVERY", "2")
    config = read_config(
        path, ["run.history_max=9"], {"run.rounds": "3"}, {"run": {"linger": True}}
    )
    run = config.run
    assert (run.rounds, run.evaluate_every, run.history_max, run.linger) == (3, 2, 9, True)
    assert config.training.batch_size == 1


def test_an_algorithms_options_survive_its_name_in_any_order():
    flags = {"algorithm.staleness": "hinge", "algorithm.name": "gossip"}
    algorithm = read_config(None, ["algorithm.jitter=0.2"], flags).algorithm
    assert (algorithm.name, algorithm.staleness, algorithm.jitter) == ("gossip", "hinge", 0.2)


@pytest.mark.parametrize(
    ("flag", "word", "meant"),
    [
        ("--algorithm", "fedagv", "fedavg"),
        ("--topology", "rnig", "ring"),
        ("--form", "atcc", "atc"),
    ],
)
def test_a_misspelt_choice_is_told_its_nearest_and_no_list(flag, word, meant, capsys):
    assert app.run(["simulate", flag, word]) == app.USAGE
    error = capsys.readouterr().err
    assert flag in error
    assert f"there is no {word!r}; did you mean {meant!r}?" in error
    assert len(error) < 200


def test_a_choice_like_none_is_told_the_list(capsys):
    assert app.run(["simulate", "--algorithm", "xxxxxxxx"]) == app.USAGE
    error = capsys.readouterr().err
    assert all(name in error for name in (*ALGORITHMS, *FORMS))


def test_a_misspelt_table_of_variants_is_told_its_nearest(tmp_path, capsys):
    (tmp_path / "c.toml").write_text('[[compair]]\nname = "a"\n')
    assert app.run(["simulate", "c.toml"]) == app.USAGE
    assert "compair: unknown key; did you mean 'compare'?" in capsys.readouterr().err


# -- model -------------------------------------------------------------------------------------


@pytest.fixture
def model_file(tmp_path):
    learner = build_learner(task="softmax", data="digits", seed=0)
    params = learner.initial_params(0)
    learner.train(params, 50)
    path = tmp_path / "m.safetensors"
    save_model(path, params, learner.layout, {"task": json.dumps(learner.describe())})
    return path, learner.evaluate(params)


def test_model_eval_measures_what_the_learner_measured(model_file, capsys):
    path, expected = model_file
    line = ["model", "eval", str(path), "--test-fraction", "0.2", "--json"]
    assert app.run(line) == app.OK
    told = json.loads(capsys.readouterr().out)
    assert told["samples"] == expected.samples
    assert told["accuracy"] == expected.accuracy
    assert told["loss"] == pytest.approx(expected.loss, rel=1e-6)


def test_model_eval_of_no_model_is_an_error_about_the_file(tmp_path, capsys):
    (tmp_path / "x").write_bytes(b"no model")
    assert app.run(["model", "eval", "x"]) == app.USAGE
    assert capsys.readouterr().err.startswith("error: x: ")
