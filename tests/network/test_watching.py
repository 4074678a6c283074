"""How far a long body is, as ``gossipnode status --watch`` and ``status`` tell it."""

from __future__ import annotations

import re

from laning import Peer, framed
from loopback import StartNode, frame_for, until

from gossipnode.cli.status import _now
from gossipnode.network import HttpClient


async def test_a_long_transfer_is_watched_while_it_lasts(start_node: StartNode) -> None:
    node = await start_node(task={"kind": "mlp", "hidden": [65536]})  # 20 MB
    async with HttpClient() as client:

        async def shown(*, as_table: bool) -> str:
            return await _now(client, node.url, as_json=False, as_table=as_table)

        assert " from b" not in await shown(as_table=False)
        async with Peer(node.url) as peer:
            await peer.send(framed(frame_for(node), 1)[: 2 * node.layout.size])
            await until(lambda: [x for x in node.status().network.transfers if x.bytes > 9.5e6])
            assert re.search(
                r", 9\.\d+ MB of 19\.\d+ MB from b, .+/s$", await shown(as_table=False)
            )
            (line,) = (x for x in (await shown(as_table=True)).splitlines() if " from b" in x)
            assert re.fullmatch(r"transfers +9\.\d+ MB of 19\.\d+ MB from b, .+/s", line)
        await until(lambda: not node.status().network.transfers)
        assert " from b" not in await shown(as_table=False)
