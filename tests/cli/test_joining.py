"""What a node that joins a swarm adopts and where it takes its place, without a network."""

from __future__ import annotations

import json

import pytest
from plain_learner import PlainLearner, plain_config

from gossipnode.cli import join
from gossipnode.config import Config, PeerEntry
from gossipnode.configfile import load_config
from gossipnode.errors import ConfigError
from gossipnode.simulation import SimulatedSwarm


def joined(*ids: str) -> join.Joined:
    peers = tuple(PeerEntry(id=i, address=f"http://10.0.0.1:{n + 1}") for n, i in enumerate(ids))
    return join.Joined("http://10.0.0.1:1", ids[0], {}, peers, None, 0, "")  # type: ignore[arg-type]


def gossiping(id_: str, share: str = "auto") -> Config:
    return Config.model_validate(
        {
            "node": {"id": id_},
            "data": {"share": share},
            "algorithm": {"name": "gossip"},
            "topology": {"graph": "random"},
        }
    )


def test_a_newcomer_takes_one_of_the_shares_that_there_are():
    shares = {joined("a", "b", "c").place(gossiping(f"n{i}"))[0].data.share for i in range(40)}
    assert shares == {"0/3", "1/3", "2/3"}
    assert joined("a").place(gossiping("x", "all"))[0].data.share == "all"


def test_a_node_that_comes_back_is_not_its_own_peer():
    _, peers = joined("a", "b").place(gossiping("b"))
    assert [peer.id for peer in peers] == ["a"]
    with pytest.raises(ConfigError, match="'a' is in the swarm already"):
        joined("a", "b").place(gossiping("a"))


# Where a node is and listens, whom it trusts, how long it runs, what it keeps and says.
OWN_AFFAIRS = {"node", "network", "trust", "run", "checkpoint", "log"}


def test_a_newcomer_adopts_every_option_that_is_not_a_nodes_own_affair():
    config = plain_config(
        algorithm__name="gossip",
        topology__graph="random",
        codec__name="bfloat16",
        training__batch_size=7,
        swarm__seed=3,
    )
    with SimulatedSwarm(config, 2, learners=[PlainLearner([0.0]) for _ in range(2)]) as swarm:
        told = swarm.up[0].shared_config()["config"]
    assert set(told) == set(Config.model_fields) - OWN_AFFAIRS
    adopted = load_config(base=json.loads(json.dumps(told)))
    assert all(getattr(adopted, name) == getattr(config, name) for name in told)
    assert set(told["codec"]) == set(type(config.codec).model_fields)
