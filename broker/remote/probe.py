"""Whether a server answers: connect, ask for ApiVersions, read the answer.

A port that is open is not enough: a process that is stopped accepts connections, too.
ApiVersions version 0 is what every server answers, before authentication (KIP-35).

Whether it lets this client in is judged by those who really connect. What the probe sees by
itself is that both sides do not speak of the same thing, because then all that a client is told
is that its connection was closed, as in an outage::

    the location says   the server is found to want             how it shows
    ---------------------------------------------------------------------------------------
    no TLS              TLS                                     a TLS handshake works
    TLS                 none                                    ApiVersions is answered without
    no SASL             a name and a password                   SaslHandshake is not out of place
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from seawall.broker.remote.probe_socket import Interruptible, NoAnswer, connected
from seawall.broker.remote.probe_tls import Tls, limit

API_VERSIONS = 18
SASL_HANDSHAKE = 17
UNSUPPORTED_SASL_MECHANISM = 33
_CORRELATION_ID = 0x5EA0
_CLIENT_ID = b"seawall-probe"
# No server offers it, so that asking begins nothing.
_NO_MECHANISM = b"NONE"
# How long it may take to see whether the other side of TLS is there.
_OTHERWISE_S = 1.0
# Far above what any server's list takes; more is not an answer to this question.
MOST_ANSWER_BYTES = 1 << 20


def _request(api_key: int, version: int, body: bytes = b"") -> bytes:
    header = struct.pack(">hhih", api_key, version, _CORRELATION_ID, len(_CLIENT_ID))
    return header + _CLIENT_ID + body


REQUEST = _request(API_VERSIONS, 0)
HANDSHAKE = _request(SASL_HANDSHAKE, 1, struct.pack(">h", len(_NO_MECHANISM)) + _NO_MECHANISM)


class Security(NamedTuple):
    """What the location says that the servers speak.

    ``has_certificate``: there is one for the client. ``certificate`` is its file, that of its
    key, and the key's password, if it is in files of PEM, which can be shown here, too.
    """

    is_tls: bool = False
    is_sasl: bool = False
    has_certificate: bool = False
    certificate: tuple[str, str | None, str | None] | None = None

    def context(self) -> ssl.SSLContext:
        """For connections that look at no certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if self.certificate is not None:
            file, key, password = self.certificate
            # librdkafka has read them before, and may know more kinds. Without a password,
            # OpenSSL would ask for one at the terminal.
            with suppress(OSError):
                context.load_cert_chain(file, key, password or "")
        return context


PLAIN = Security()


class WrongProtocol(NoAnswer):
    """It answers, but to another ``security.protocol``. ``is_about_tls``, or else SASL;
    ``hint`` says what to do."""

    def __init__(self, message: str, hint: str, *, is_about_tls: bool) -> None:
        super().__init__(message)
        self.hint = hint
        self.is_about_tls = is_about_tls


class _NotKafka(NoAnswer):
    """What may well be TLS on one side only."""


def probe(
    host: str,
    port: int,
    timeout_s: float,
    security: Security = PLAIN,
    interruptible: Interruptible | None = None,
) -> None:
    """Return if the server answers within the time. Raises `NoAnswer`, and `WrongProtocol`
    if it would to others.

    With TLS the certificate is not looked at, and a server that wants one from its clients has
    answered with that. If there is one that cannot be shown here, shaking hands is enough.
    """
    where = f"{host}:{port}"
    host, is_tls = host.strip("[]"), security.is_tls
    deadline_s = time.monotonic() + timeout_s
    server = _Server(host, port, deadline_s, interruptible or Interruptible())
    try:
        try:
            with server.connected(security) as connection:
                if security.certificate or not security.has_certificate:
                    _ask(connection, is_sasl=security.is_sasl)
        except ssl.SSLError as error:
            if not _is_told(error):
                raise _NotKafka(f"{where}: no TLS ({error.reason or error})") from None
        except ConnectionResetError:
            raise _NotKafka("the server closed the connection instead of answering") from None
    except _NotKafka as error:
        if is_tls and _has_alert(server.within(_OTHERWISE_S), security):
            return
        if not _answers_otherwise(server.within(_OTHERWISE_S), is_tls=is_tls):
            raise
        if is_tls:
            said = f"{where} does not speak TLS"
            hint = "leave security.protocol out, or make it sasl_plaintext for a password"
        else:
            said = f"{where} speaks TLS"
            hint = "add security.protocol=ssl, or sasl_ssl for a password"
        raise WrongProtocol(said, hint, is_about_tls=True) from error
    except TimeoutError:
        raise NoAnswer(f"{where} did not answer within {timeout_s:g} s") from None
    except OSError as error:
        raise NoAnswer(f"{where}: {error.strerror or error}") from None
    except UnicodeError as error:  # no name of a host looks like that
        raise NoAnswer(f"{where}: {error}") from None


class _Plain:
    """A connection without TLS, with one deadline for all of it."""

    def __init__(self, connection: socket.socket, deadline_s: float) -> None:
        self._connection = connection
        self._deadline_s = deadline_s

    def sendall(self, data: bytes) -> None:
        limit(self._connection, self._deadline_s)
        self._connection.sendall(data)

    def recv(self, size: int) -> bytes:
        limit(self._connection, self._deadline_s)
        return self._connection.recv(size)


Connection = _Plain | Tls


class _Server(NamedTuple):
    """Whom to connect to, until when."""

    host: str
    port: int
    deadline_s: float
    interruptible: Interruptible

    def within(self, time_s: float) -> _Server:
        """The same, with so much time at the most."""
        return self._replace(deadline_s=min(self.deadline_s, time.monotonic() + time_s))

    @contextmanager
    def connected(self, security: Security) -> Iterator[Connection]:
        """A connection, once hands are shaken if it has TLS."""
        with connected(*self) as connection:
            if security.is_tls:
                yield Tls(connection, security.context(), self.host, self.deadline_s)
            else:
                yield _Plain(connection, self.deadline_s)


def _is_told(error: ssl.SSLError) -> bool:
    """Whether this is an alert: then there is a server, which speaks TLS, and wants what only
    those have who really connect, such as a certificate."""
    return "ALERT" in (error.reason or "").upper()


def _has_alert(server: _Server, security: Security) -> bool:
    """Whether an alert comes to one that only listens: what is sent to a connection that has
    been closed by then destroys what came before (RFC 9293, section 3.10.7)."""
    try:
        with server.connected(security) as connection:
            connection.recv(1)
    except ssl.SSLError as error:
        return _is_told(error)
    except OSError:
        pass
    return False


def _answers_otherwise(server: _Server, *, is_tls: bool) -> bool:
    """Whether the server answers with TLS to what had none, or the other way round."""
    try:
        with server.connected(Security(is_tls=not is_tls)) as connection:
            if is_tls:
                _ask(connection, is_sasl=True)
            return True
    except ssl.SSLError as error:
        return _is_told(error)
    except (OSError, NoAnswer):
        return False


def _ask(connection: Connection, *, is_sasl: bool) -> None:
    answer = _answer(connection, REQUEST)
    # Error code, number of APIs; then of each the key, the first and the last version.
    apis = answer[6 : len(answer) - len(answer) % 6]
    if is_sasl or SASL_HANDSHAKE not in [key for key, _, _ in struct.iter_unpack(">hhh", apis)]:
        return
    try:
        answer = _answer(connection, HANDSHAKE)
    except (OSError, NoAnswer):
        return
    if len(answer) >= 2 and struct.unpack_from(">h", answer)[0] == UNSUPPORTED_SASL_MECHANISM:
        raise WrongProtocol(
            "it wants a name and a password",
            "add security.protocol=sasl_plaintext (with TLS: sasl_ssl), sasl.mechanism="
            f"{'|'.join(_mechanisms(answer))}, sasl.username and sasl.password",
            is_about_tls=False,
        )


def _mechanisms(answer: bytes) -> list[str]:
    """What the server offers, of the answer to SaslHandshake."""
    found = []
    try:
        [count] = struct.unpack_from(">i", answer, 2)
        at = 6
        for _ in range(count):
            [size] = struct.unpack_from(">h", answer, at)
            found.append(answer[at + 2 : at + 2 + size].decode("ascii"))
            at += 2 + size
    except (struct.error, UnicodeDecodeError):
        pass
    return found


def _answer(connection: Connection, request: bytes) -> bytes:
    """The body of the answer to a request."""
    connection.sendall(struct.pack(">i", len(request)) + request)
    [size] = struct.unpack(">i", _read(connection, 4))
    if not 6 <= size <= MOST_ANSWER_BYTES:
        raise _NotKafka("what answers does not speak Kafka")
    [correlation_id] = struct.unpack(">i", _read(connection, 4))
    if correlation_id != _CORRELATION_ID:
        raise _NotKafka("what answers does not speak Kafka")
    return _read(connection, size - 4)


def _read(connection: Connection, size: int) -> bytes:
    parts = []
    while size:
        part = connection.recv(min(size, 1 << 16))
        if not part:
            raise _NotKafka("the server closed the connection instead of answering")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
