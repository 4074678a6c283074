"""The URL of a node as people write it on a command line.

Invariant: what passes has a scheme, a host and a port that can be dialled, and no slash at its end.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import click


class NodeUrl(click.ParamType):  # type: ignore[type-arg] # generic in some versions only
    """A click type: ``http://HOST:PORT``."""

    name = "URL"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the URL without a slash at its end; fails with how to write it."""
        try:
            parts = urlsplit(value)
            is_url = parts.scheme in ("http", "https") and bool(parts.hostname)
            is_url = is_url and parts.port != 0  # reading a port checks that it is one
        except ValueError:
            is_url = False
        if not is_url:
            self.fail(f"{value!r} is no address of a node; write http://HOST:PORT", param, ctx)
        return value.rstrip("/")


NODE_URL = NodeUrl()
