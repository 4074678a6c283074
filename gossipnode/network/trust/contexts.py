"""TLS contexts of a bundle: version 1.3 alone, both ends verified, ids in place of host names.

Addresses may change and ids may not, so no host name is compared. Who dials names the id that it
means as the server name; the certificate that answers must be of that id (``Trust``). Invariant:
no certificate is taken on trust in a name or an
address, and none of TLS 1.2.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from collections.abc import Iterator

from gossipnode.network.trust.bundle import Bundle
from gossipnode.network.trust.handshakes import Context
from gossipnode.network.trust.identity import pem_of


def context_of(bundle: Bundle, *, serving: bool) -> Context:
    """Return a context that shows the bundle's certificate and trusts whom the bundle trusts."""
    context = Context(ssl.PROTOCOL_TLS_SERVER if serving else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    # Python 3.13's default, on every version.
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if serving:
        # A ticket would resume a session without showing the certificate again.
        context.num_tickets = 0
    with _as_file(pem_of(bundle.certificate) + pem_of(bundle.key)) as chain:
        context.load_cert_chain(chain)
    if bundle.trusted:
        context.load_verify_locations(cadata="".join(map(pem_of, bundle.trusted)))
    return context


@contextlib.contextmanager
def _as_file(text: str) -> Iterator[str]:
    """Name a file with ``text``, since Python reads keys from files alone; in memory if it can."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("key", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile("w") as file:  # mode 0600
        file.write(text)
        file.flush()
        yield file.name
