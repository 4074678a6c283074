"""What went wrong with a handshake, in words: as the refusing side and as the refused one saw it.

Under TLS 1.3 a client has finished before the server has looked at its certificate, so a refusal
reaches it as an alert in place of the answer. Invariant: the reasons are a closed set, since they
label a counter; nothing here is text of the peer's.
"""

from __future__ import annotations

import ssl
from typing import Final

REASONS: Final = {
    "no_certificate": "it showed no certificate",
    "unknown_authority": "its certificate is not of this swarm's authority, nor pinned here",
    "expired": "its certificate has expired, or its clock or this machine's is wrong",
    "not_yet_valid": "its certificate does not hold yet: its clock or this machine's is wrong",
    "bad_certificate": "its certificate is not sound",
    "revoked": "its certificate was revoked",
    "other_swarm": "its certificate is of another swarm",
    "wrong_id": "it is not the node that is at this address",
    "not_tls": "it does not speak TLS: give it a bundle of this swarm (start --bundle)",
    "old_tls": "it speaks a version of TLS before 1.3",
    "we_are_unknown": "it does not trust this node's certificate: it is of another authority",
    "we_are_expired": "it takes this node's certificate for expired",
    "timeout": "it did not finish the handshake in time",
    "broken": "it broke off the handshake",
}
# X509_V_ERR_… of OpenSSL.
_VERIFY: Final = {
    9: "not_yet_valid",
    10: "expired",
    2: "unknown_authority",
    18: "unknown_authority",
    19: "unknown_authority",
    20: "unknown_authority",
    21: "unknown_authority",
}
_OPENSSL: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
    "HTTP_REQUEST": "not_tls",
    "WRONG_VERSION_NUMBER": "not_tls",
    "HTTPS_PROXY_REQUEST": "not_tls",
    "WRONG_SSL_VERSION": "not_tls",
    "UNSUPPORTED_PROTOCOL": "old_tls",
    "TLSV1_ALERT_PROTOCOL_VERSION": "old_tls",
    "TLSV1_ALERT_UNKNOWN_CA": "we_are_unknown",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "we_are_expired",
}
# What an alert means to whom it is sent.
_ALERTS: Final = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": (
        "it wants a certificate, and this node shows none: start it with a bundle of the swarm"
    ),
    "TLSV1_ALERT_UNKNOWN_CA": (
        "it refuses this node's certificate: unknown authority. The two nodes have bundles of "
        "different authorities, or are not pinned by each other"
    ),
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": (
        "it refuses this node's certificate as expired. {dates}: renew the bundle, or, where that "
        "is not so, set the clocks"
    ),
    "SSLV3_ALERT_BAD_CERTIFICATE": (
        "it refuses this node's certificate as not valid. {dates}: if that is so, its clock is "
        "behind"
    ),
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it refuses this node's certificate: it was revoked",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it speaks TLS, but not as this node does",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it speaks another version of TLS than 1.3",
}


class StrangerError(ssl.SSLError):
    """The other side proved who it is, and that is not whom this node talks to."""

    def __init__(self, code: str, words: str = "") -> None:
        assert code in REASONS
        self.code, self.words = code, words or REASONS[code]
        super().__init__(1, self.words)


def reason_of(error: BaseException) -> str:
    """Return why an accepted connection got no further, one of ``REASONS``."""
    if isinstance(error, StrangerError):
        return error.code
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY.get(error.verify_code, "bad_certificate")
    if isinstance(error, ssl.SSLError):
        return _OPENSSL.get(error.reason or "", "broken")
    if isinstance(error, TimeoutError | ConnectionAbortedError):
        return "timeout"
    return "broken"


def words_of(error: BaseException | None, dates: str = "") -> str:
    """Return why a dialled connection got no further; empty where it says nothing about TLS.

    ``dates`` are from when to when the own certificate holds, and what time it is.
    """
    if isinstance(error, StrangerError):
        return error.words
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"this node refuses it: {REASONS[reason_of(error)]}"
    if isinstance(error, ssl.SSLError):
        known = _ALERTS.get(error.reason or "")
        if known:
            return known.format(dates=dates or "Look at its dates")
        if reason_of(error) == "not_tls":
            return "it speaks plain HTTP, and this node TLS alone: give it a bundle of the swarm"
        return f"TLS failed: {(error.reason or type(error).__name__).lower().replace('_', ' ')}"
    return ""
