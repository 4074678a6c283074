"""Options: four layers, the strongest wins, and whatever is wrong is told with its place."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gossipnode.algorithms import build_algorithm
from gossipnode.algorithms.dpsgd import DpsgdOptions
from gossipnode.algorithms.gossip_learning import GossipOptions
from gossipnode.config import Config, PeerEntry
from gossipnode.config.listing import options
from gossipnode.configfile import load_config, load_peers
from gossipnode.errors import ConfigError
from gossipnode.network.world import data_folder
from gossipnode.registry import algorithm_class


def written(tmp_path: Path, text: str, name: str = "node.toml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def refusal(*args: Any, **kwargs: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(*args, **kwargs)
    return caught.value


# -- layers -----------------------------------------------------------------------------------


def test_flags_beat_environment_beats_file_beats_default(tmp_path: Path) -> None:
    key, env = "run.rounds", "GOSSIPNODE_RUN_ROUNDS"
    path = written(tmp_path, "[run]\nrounds = 1\n")
    assert load_config().run.rounds == 0
    assert load_config(path).run.rounds == 1
    assert load_config(path, environment={env: "2"}).run.rounds == 2
    assert load_config(path, environment={env: "2"}, flags={key: 3}).run.rounds == 3
    assert load_config(path, flags={key: 3}).run.linger is False


def test_layers_of_one_table_are_joined(tmp_path: Path) -> None:
    path = written(tmp_path, "[training]\nbatch_size = 7\n")
    training = load_config(path, flags={"training.momentum": 0.5}).training
    assert (training.batch_size, training.momentum) == (7, 0.5)


def test_another_algorithm_voids_the_options_of_the_old_one(tmp_path: Path) -> None:
    path = written(tmp_path, '[algorithm]\nname = "dpsgd"\ndeadline_s = 3\n')
    config = load_config(path, flags={"algorithm.name": "gossip", "algorithm.period_s": 2})
    assert isinstance(config.algorithm, GossipOptions)
    assert config.algorithm.period_s == 2
    kept = load_config(path, flags={"algorithm.form": "cta"})
    assert isinstance(kept.algorithm, DpsgdOptions)
    assert (kept.algorithm.deadline_s, kept.algorithm.form) == (3, "cta")


def test_a_form_by_name_may_be_repeated_and_not_contradicted(tmp_path: Path) -> None:
    """Which of the two was meant, nobody can know; a stronger layer may say otherwise."""
    path = tmp_path / "node.toml"
    path.write_text('[algorithm]\nname = "d2"\nform = "d2"\n')
    assert load_config(path).algorithm.called == "d2"
    assert load_config(path, flags={"algorithm.form": "extra"}).algorithm.called == "extra"
    path.write_text('[algorithm]\nname = "d2"\nform = "extra"\n')
    with pytest.raises(ConfigError, match=r"is extra, but algorithm\.name is d2") as caught:
        load_config(path)
    assert (caught.value.file, caught.value.key) == (str(path), "algorithm.form")
    with pytest.raises(ConfigError, match=r"is extra, but algorithm\.name is d2"):
        Config.model_validate({"algorithm": {"name": "d2", "form": "extra"}})


def test_one_layer_of_flags_or_variables_may_not_contradict_itself_either(tmp_path: Path) -> None:
    flags = {"algorithm.form": "extra", "algorithm.name": "d2"}
    variables = {"GOSSIPNODE_ALGORITHM_FORM": "extra", "GOSSIPNODE_ALGORITHM_NAME": "d2"}
    for error, place in (
        (refusal(flags=flags), "command line"),
        (refusal(environment=variables), "environment"),
    ):
        assert (error.file, error.key) == (place, "algorithm.form")
        assert "is extra, but algorithm.name is d2" in str(error)
    same = load_config(flags={"algorithm.form": "d2", "algorithm.name": "d2"})
    family = load_config(flags={"algorithm.form": "extra", "algorithm.name": "correction"})
    across = load_config(
        environment={"GOSSIPNODE_ALGORITHM_FORM": "extra"}, flags={"algorithm.name": "d2"}
    )
    forms = [getattr(config.algorithm, "form", "") for config in (same, family, across)]
    assert forms == ["d2", "extra", "d2"]


def test_flags_in_any_order_choose_the_algorithm() -> None:
    one = load_config(flags={"algorithm.name": "gossip", "algorithm.period_s": 2})
    other = load_config(flags={"algorithm.period_s": 2, "algorithm.name": "gossip"})
    assert one == other


def test_environment_in_any_order_chooses_the_algorithm() -> None:
    """Variables come sorted: MERGE_WEIGHT stands before NAME."""
    environment = {
        "GOSSIPNODE_ALGORITHM_NAME": "gossip",
        "GOSSIPNODE_ALGORITHM_MERGE_WEIGHT": "0.25",
    }
    algorithm = load_config(environment=environment).algorithm
    assert isinstance(algorithm, GossipOptions)
    assert algorithm.merge_weight == 0.25


def test_gossip_without_a_graph_pushes_to_random_peers() -> None:
    assert load_config(flags={"algorithm.name": "gossip"}).topology.graph == "random"
    fixed = load_config(flags={"algorithm.name": "gossip", "topology.graph": "ring"})
    assert fixed.topology.graph == "ring"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("task.hidden", "64,32", (64, 32)),
        ("task.hidden", "[64, 32]", (64, 32)),
        ("task.hidden", "", ()),
        ("data.classes", "cat, dog", ("cat", "dog")),
        ("data.classes", "0,1", ("0", "1")),
        ("swarm.name", "42", "42"),
        ("swarm.name", "true", "true"),
        ("run.linger", "true", True),
        ("training.learning_rate", "1e-3", 1e-3),
        ("training.learning_rate", "1", 1.0),
        ("topology.rows", "3", 3),
        ("topology.graph", "torus", "torus"),
        ("data.source", "csv:a=b # c.csv", "csv:a=b # c.csv"),
    ],
)
def test_text_is_read_as_the_type_of_its_option(key: str, text: str, value: object) -> None:
    section, name = key.split(".")
    env = f"GOSSIPNODE_{section}_{name}".upper()
    by_flag, by_env = load_config(flags={key: text}), load_config(environment={env: text})
    assert getattr(getattr(by_flag, section), name) == value
    assert by_flag == by_env


# -- refusals ---------------------------------------------------------------------------------


def test_a_misspelt_key_names_file_key_and_nearest(tmp_path: Path) -> None:
    path = written(tmp_path, "[training]\nbatchsize = 3\n")
    error = refusal(path)
    assert (error.file, error.key) == (str(path), "training.batchsize")
    assert error.nearest == "training.batch_size"
    assert "did you mean" in str(error)


def test_a_key_in_the_wrong_table_is_told_its_table(tmp_path: Path) -> None:
    error = refusal(written(tmp_path, "[training]\nrounds = 3\n"))
    assert error.nearest == "run.rounds"
    error = refusal(written(tmp_path, "rounds = 3\n"))
    assert "[run]" in str(error)


def test_a_misspelt_table(tmp_path: Path) -> None:
    error = refusal(written(tmp_path, "[trainig]\nmomentum = 0.1\n"))
    assert error.nearest == "training"


@pytest.mark.parametrize("text", ["run = 3\n", "[[run]]\nrounds = 3\n"])
def test_a_table_that_is_written_as_none(tmp_path: Path, text: str) -> None:
    error = refusal(written(tmp_path, text))
    assert (error.key, error.nearest) == ("run", None)
    assert "write [run]" in str(error)


@pytest.mark.parametrize(
    ("text", "words"),
    [("[run\n", "line 1"), ("[run]\n\nrounds = \n", "line 3"), ("[run]\na=1\na=2\n", "overwrite")],
)
def test_invalid_toml_tells_the_place(tmp_path: Path, text: str, words: str) -> None:
    error = refusal(written(tmp_path, text))
    assert words in str(error)
    assert error.file is not None


@pytest.mark.parametrize("line", ["rounds = 3", "rounds = "])
def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "windows.toml"
    path.write_bytes(b"\xef\xbb\xbf[run]\r\n" + line.encode() + b"\r\n")
    if line.endswith("3"):
        assert load_config(path).run.rounds == 3
    else:
        assert "line 2" in str(refusal(path))


@pytest.mark.parametrize("source", ["digits", "npz:mine.npz", "idx:mnist"])
def test_a_label_without_a_table_is_refused(source: str) -> None:
    flags = {"data.source": source, "data.label": "quality"}
    with pytest.raises(ConfigError, match=r"data\.label"):
        load_config(flags=flags)
    for table in ("csv:mine.csv", "parquet:mine.parquet"):
        assert load_config(flags={**flags, "data.source": table}).data.label == "quality"


def test_a_file_that_is_none(tmp_path: Path) -> None:
    assert "no such file" in str(refusal(tmp_path / "none.toml"))
    assert "cannot be read" in str(refusal(tmp_path))
    binary = tmp_path / "b.toml"
    binary.write_bytes(b"\xff\xfe")
    assert "cannot be read" in str(refusal(binary))


def test_the_strongest_layer_is_blamed(tmp_path: Path) -> None:
    path = written(tmp_path, "[run]\nrounds = -1\n")
    assert refusal(path).file == str(path)
    error = refusal(path, environment={"GOSSIPNODE_RUN_ROUNDS": "-2"})
    assert error.file == "environment variable GOSSIPNODE_RUN_ROUNDS"
    assert refusal(path, flags={"run.rounds": -3}).file == "command line"


def test_unknown_variables_and_flags_are_no_silence() -> None:
    error = refusal(environment={"GOSSIPNODE_RUN_ROUND": "3"})
    assert error.nearest == "GOSSIPNODE_RUN_ROUNDS"
    assert load_config(environment={"PATH": "x", "GOSSIP": "y"}) == Config()
    assert refusal(flags={"run.round": 3}).nearest == "run.rounds"


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("training.learning_rate", 0, "greater than 0"),
        ("training.learning_rate", "nan", ""),
        ("training.learning_rate", float("inf"), ""),
        ("training.momentum", 1.0, "less than 1"),
        ("network.port", 65536, "65535"),
        ("checkpoint.keep", 0, "1"),
        ("task.kind", "svm", "softmax"),
        ("swarm.name", "a b", "pattern"),
        ("swarm.name", "", "pattern"),
        ("node.id", "-x", "pattern"),
        ("data.share", "1-2", "pattern"),
        ("run.rounds", 1.5, "integer"),
        ("run.rounds", "many", "integer"),
        pytest.param("algorithm.name", "bittorrent", "dpsgd"),
        ("algorithm.period_s", 1, ""),
    ],
)
def test_values_out_of_range_name_their_key(key: str, value: object, allowed: str) -> None:
    error = refusal(flags={key: value})
    assert error.file == "command line"
    assert key.split(".")[0] in str(error.key)
    assert allowed in str(error)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan", "inf"])
@pytest.mark.parametrize(
    "key",
    ["run.duration_s", "algorithm.deadline_s", "network.push_timeout_s", "task.l2"],
)
def test_no_option_is_infinite_or_no_number(key: str, value: object) -> None:
    assert refusal(flags={key: value}).key == key


def test_combinations_that_make_no_sense() -> None:
    assert "random" in str(refusal(flags={"topology.graph": "random"}))
    assert "age" in str(refusal(flags={"algorithm.staleness": "age"}))
    assert "neighbours" in str(refusal(flags={"topology.graph": "explicit"}))


def test_several_faults_are_told_together(tmp_path: Path) -> None:
    path = written(tmp_path, "[run]\nrounds = -1\nduration_s = -1\nhistory_max = 0\n")
    for key in ("run.rounds", "run.duration_s", "run.history_max"):
        assert key in str(refusal(path))


def test_a_misspelt_key_is_named_before_the_one_that_it_was_meant_to_be(tmp_path: Path) -> None:
    path = written(tmp_path, '[[peer]]\nid = "a"\nadress = "http://127.0.0.1:1"\n')
    with pytest.raises(ConfigError, match=r"adress.*did you mean 'address'") as caught:
        load_peers(path)
    assert "address: is missing" in str(caught.value)


def test_an_option_of_another_algorithm_is_called_that() -> None:
    error = refusal(flags={"algorithm.name": "gossip", "algorithm.form": "cta"})
    assert "is no option of gossip; its options are " in str(error)
    assert "period_s" in str(error)
    assert error.nearest is None


@pytest.mark.parametrize("name", ["d2", "correction"])
def test_an_option_of_another_algorithm_is_told_with_those_of_this_one(
    tmp_path: Path, name: str
) -> None:
    """A form with a name of its own has no other form, so that is none of its options."""
    path = written(tmp_path, f'[algorithm]\nname = "{name}"\nperiod_s = 1\n')
    variables = {"GOSSIPNODE_ALGORITHM_NAME": name, "GOSSIPNODE_ALGORITHM_PERIOD_S": "1"}
    flags = {"algorithm.name": name, "algorithm.period_s": "1"}
    for error in (refusal(path), refusal(environment=variables), refusal(flags=flags)):
        assert f"is no option of {name}; its options are " in str(error)
        names = str(error).split("its options are ")[1].split(", ")
        model = algorithm_class("correction").Options
        hidden = {"name", "form"} if name == "d2" else {"name"}
        assert set(names) == set(model.model_fields) - hidden


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Config().run.rounds = 3


# -- every option -----------------------------------------------------------------------------


def test_every_option_is_named_helped_and_unique() -> None:
    found = list(options())
    for what in ("key", "env"):
        values = [getattr(option, what) for option in found]
        assert len(set(values)) == len(values)
    flags = [option.flag for option in found if option.flag]
    assert len(set(flags)) == len(flags)
    for option in found:
        assert option.field.description, option.key
        assert option.field.description.endswith((".", ";")), option.key
        if option.name.endswith("_s"):
            assert option.unit == "s", option.key
        if option.name.endswith("_bytes_max"):
            assert option.unit == "bytes", option.key


def test_every_default_survives_the_way_through_toml(tmp_path: Path) -> None:
    """What ``init`` writes is what ``load_config`` reads."""
    import json

    dumped = Config().model_dump(mode="json", exclude_none=True)
    lines = []
    for section, table in dumped.items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in table.items()]
    assert load_config(written(tmp_path, "\n".join(lines))) == Config()


@given(st.text(max_size=30), st.sampled_from([option.key for option in options()]))
def test_any_text_becomes_a_config_or_a_config_error(text: str, key: str) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(load_config(flags={key: text}), Config)


# -- peers --------------------------------------------------------------------------------------


def peers(tmp_path: Path, text: str) -> tuple[PeerEntry, ...]:
    return load_peers(written(tmp_path, text, "peers.toml"))


def entry(name: str, address: str) -> str:
    return f'[[peer]]\nid = "{name}"\naddress = "{address}"\n'


def test_peers_in_their_order(tmp_path: Path) -> None:
    found = peers(tmp_path, entry("b", "http://h:1/") + entry("a", "http://[::1]:2"))
    assert [(p.id, p.address) for p in found] == [("b", "http://h:1"), ("a", "http://[::1]:2")]
    assert peers(tmp_path, "") == ()
    assert peers(tmp_path, entry("a", "https://h:1"))[0].address == "https://h:1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (entry("a", "http://h:1") + entry("a", "http://h:2"), "'a' is given twice"),
        (entry("a", "http://h:1") + entry("b", "http://h:1"), "'http://h:1' is given twice"),
        (entry("a", "http://h:1") + entry("b", "http://h:1/"), "'http://h:1' is given twice"),
        (entry("a", "h:1"), "http://HOST:PORT"),
        (entry("a", "ftp://h:1"), "http://HOST:PORT"),
        (entry("a", "http://h"), "http://HOST:PORT"),
        (entry("a", "http://h:99999"), "http://HOST:PORT"),
        (entry("a", "http://h:1/path"), "http://HOST:PORT"),
        pytest.param(entry("a", "http://h:1?x=1"), "http://HOST:PORT"),
        pytest.param(entry("a", "http://user@h:1"), "http://HOST:PORT"),
        (entry("a b", "http://h:1"), "pattern"),
        ('[[peer]]\nid = "a"\n', "peer 1.address"),
        ('[[peers]]\nid = "a"\n', "did you mean 'peer'"),
        ('[peer]\nid = "a"\n', "double brackets"),
        ('peer = ["a"]\n', "peer 1"),
        (entry("a", "http://h:1") + "adress = 3\n", "peer 1.adress"),
    ],
)
def test_peers_that_cannot_be(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        peers(tmp_path, text)
    assert words in str(caught.value)
    assert caught.value.file is not None
    assert caught.value.file.endswith("peers.toml")


def test_paths_in_a_file_are_relative_to_it_and_those_of_flags_are_not(tmp_path: Path) -> None:
    text = """
        [swarm]
        peers = "peers.toml"
        [topology]
        graph = "explicit"
        edges = "sub/edges.txt"
    """
    path = written(tmp_path, text)
    config = load_config(path)
    assert config.swarm.peers == str(path.parent / "peers.toml")
    assert config.topology.edges == str(path.parent / "sub/edges.txt")
    assert load_config(path, flags={"topology.edges": "x.txt"}).topology.edges == "x.txt"


def test_a_tilde_is_the_home_directory_wherever_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "p.toml").write_text('[[peer]]\nid = "a"\naddress = "http://127.0.0.1:1"\n')
    given = {"GOSSIPNODE_SWARM_PEERS": "~/p.toml", "GOSSIPNODE_NODE_DATA_DIR": "~/data"}
    config = load_config(environment=given)
    assert [entry.id for entry in load_peers(config.swarm.peers)] == ["a"]
    assert data_folder(config, "a") == tmp_path / "data"


def test_a_home_that_there_is_none_of(tmp_path: Path) -> None:
    error = refusal(written(tmp_path, '[swarm]\npeers = "~nobody-of-that-name/p.toml"\n'))
    assert "no such home directory" in str(error)


@pytest.mark.parametrize(
    ("flags", "called"),
    [
        ({"algorithm.name": "d2"}, "d2"),
        ({"algorithm.name": "correction"}, "exact_diffusion"),
        ({"algorithm.name": "dpsgd"}, "dpsgd"),
        ({"algorithm.form": "cta"}, "dpsgd/cta"),
        ({"algorithm.name": "fedavg"}, "fedavg"),
        ({"algorithm.name": "gossip"}, "gossip"),
    ],
)
def test_a_form_has_a_name_by_which_nodes_tell_each_other_apart(
    flags: dict[str, str], called: str
) -> None:
    config = load_config(flags=flags)
    assert config.algorithm.called == called
    assert build_algorithm(config).called == called
