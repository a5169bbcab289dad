"""Certificates for the TLS tests: valid, of an unknown CA, for another host, expired, and of a client."""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

import trustme

YESTERDAY = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)


class Certificates:
    """A CA that the client trusts, another one, and the certificates that both issued."""

    def __init__(self, folder: Path) -> None:
        self.ca, stranger = trustme.CA(), trustme.CA()
        self.ca_file = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(self.ca_file)
        issued = {
            "right CA": self.ca.issue_cert("127.0.0.1"),
            "wrong CA": stranger.issue_cert("127.0.0.1"),
            "wrong host": self.ca.issue_cert("db.example"),
            "expired": self.ca.issue_cert("127.0.0.1", not_after=YESTERDAY),
        }
        self.contexts = {name: self.context(certificate) for name, certificate in issued.items()}
        client = self.ca.issue_cert("agent.example", common_name="certified")
        self.client_cert, self.client_key = folder / "client.pem", folder / "client.key"
        client.cert_chain_pems[0].write_to_path(self.client_cert)
        client.private_key_pem.write_to_path(self.client_key)

    def context(self, certificate: trustme.LeafCert) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        self.ca.configure_trust(context)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context
