"""aiohttp, imported so that an idle node stays small.

Two things are left out. ``aiohttp.web`` as a whole brings an application framework, static files
and HTML entities, 1.3 MB that a dictionary of routes does not need. And aiohttp, when imported,
reads every certificate authority that the system trusts for its default TLS context: 1.6 MB and
some 30 ms, and a node trusts none of them, only its own swarm.

Invariant: every other module of this room imports aiohttp's parts from here, so that nothing
imports it earlier; the environment is as before when this module is loaded.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@contextlib.contextmanager
def _without_certificates() -> Iterator[None]:
    """Point OpenSSL's default paths to nothing for a while."""
    before = {name: os.environ.get(name) for name in _CERTIFICATES}
    os.environ.update(dict.fromkeys(_CERTIFICATES, os.devnull))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


with _without_certificates():
    import aiohttp
    from aiohttp import http_parser
    from aiohttp.abc import AbstractResolver, AbstractStreamWriter, ResolveResult
    from aiohttp.http_exceptions import HttpProcessingError
    from aiohttp.payload import Payload
    from aiohttp.web_protocol import RequestHandler
    from aiohttp.web_request import BaseRequest
    from aiohttp.web_response import Response, StreamResponse
    from aiohttp.web_server import Server as HttpServer

__all__ = [
    "AbstractResolver",
    "AbstractStreamWriter",
    "BaseRequest",
    "HttpProcessingError",
    "HttpServer",
    "Payload",
    "RequestHandler",
    "ResolveResult",
    "Response",
    "StreamResponse",
    "aiohttp",
    "http_parser",
]
