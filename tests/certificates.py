"""Certificates for tests of TLS: an authority that is trusted, and one that nobody knows."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """Files in PEM. ``server`` and ``client`` hold a key and the certificate for it, and so does
    ``impostor``, which says that it is the server, too, but is of the stranger."""

    authority: Path
    stranger: Path
    server: Path
    client: Path
    impostor: Path

    def server_context(self) -> ssl.SSLContext:
        """What a server in Python wraps its sockets with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server)
        return context


def make_certificates(folder: Path) -> Certificates:
    """Write them into a folder. The server is 127.0.0.1, the client is called client."""
    authority, stranger = trustme.CA(), trustme.CA()
    made = Certificates(
        authority=folder / "authority.pem",
        stranger=folder / "stranger.pem",
        server=folder / "server.pem",
        client=folder / "client.pem",
        impostor=folder / "impostor.pem",
    )
    authority.cert_pem.write_to_path(made.authority)
    stranger.cert_pem.write_to_path(made.stranger)
    for path, issuer, name in (
        (made.server, authority, "127.0.0.1"),
        (made.client, authority, "client.test"),
        (made.impostor, stranger, "127.0.0.1"),
    ):
        issued = issuer.issue_cert(name)
        key = load_pem_private_key(issued.private_key_pem.bytes(), None)
        # Java wants PKCS 8.
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        with path.open("ab") as file:
            file.writelines(each.bytes() for each in issued.cert_chain_pems)
    return made
