"""What ``gossipnode status`` says where a node answers and will not tell people how it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from loopback import config_of
from trusting import authority_in, bundle_of

from gossipnode.cli.status import ask
from gossipnode.errors import NetworkError
from gossipnode.network import HttpClient, HttpNode
from gossipnode.network.trust.trust import Trust


async def test_nobody_is_asked_whether_a_node_runs_where_one_answered(tmp_path: Path) -> None:
    bundle = bundle_of(authority_in(tmp_path / "ca"), "b")
    config = config_of(tmp_path / "b", node={"id": ""}, network={"status_port": 0})
    async with HttpNode(config, trust=Trust(bundle)) as node, HttpClient() as client:
        with pytest.raises(NetworkError, match="people ask a node's pages") as by_tls:
            await ask(client, node.url)
        with pytest.raises(NetworkError, match="it speaks TLS alone there") as plain:
            await ask(client, node.url.replace("https:", "http:"))
        assert (await ask(client, node.status_url))["node_id"] == bundle.member.id
        url = node.url
    assert "is a node running there?" not in f"{by_tls.value}{plain.value}"
    async with HttpClient() as client:
        with pytest.raises(NetworkError, match=r"connection refused; is a node running there\?"):
            await ask(client, url.replace("https:", "http:"))
