"""Errors about where a broker is: its location, and the way there.

Import them from ``seawall.broker.errors``, whose docstring draws the whole tree.
"""

from __future__ import annotations

from seawall.broker.errors_base import BrokerError


class LocationError(BrokerError):
    """About a location. It carries no password: what is told never has the settings."""

    def __init__(self, message: str, *, location: str) -> None:
        super().__init__(message)
        self.location = location


class InvalidLocation(LocationError):
    """Neither a directory nor ``kafka://host:port[,host:port…][?setting=value&…]``."""

    def __init__(self, *, location: str, reason: str) -> None:
        super().__init__(
            f"{location!r} is not a location: {reason}; give a directory, or "
            "kafka://HOST:PORT[,HOST:PORT...][?SETTING=VALUE&...]",
            location=location,
        )
        self.reason = reason


class UnsupportedByLocation(LocationError):
    """What was asked for can be done elsewhere, but not there. Nothing was changed."""

    def __init__(self, *, operation: str, location: str) -> None:
        super().__init__(f"{location} cannot do this: {operation}", location=location)
        self.operation = operation


class MissingExtra(LocationError):
    """A package that only this kind of location needs is not installed."""

    def __init__(self, *, location: str, package: str, extra: str) -> None:
        super().__init__(
            f"{location} needs the package {package}; install it with: "
            f"pip install 'seawall[{extra}]'",
            location=location,
        )
        self.package = package
        self.extra = extra


class ConnectionLost(LocationError):
    """No server answers, and it was tried as often, or as long, as it may be.

    ``attempts``: how often it was tried again. Of what was on its way nothing was stored,
    unless the error says `OutcomeUnknown`.
    """

    def __init__(self, *, location: str, attempts: int, reason: str) -> None:
        tried = ("once", "twice")[attempts] if attempts < 2 else f"{attempts + 1} times"
        super().__init__(
            f"no server answers at {location} ({reason}; tried {tried}); start it, check the "
            "address, or raise reconnect_attempts",
            location=location,
        )
        self.attempts = attempts
        self.reason = reason


class Away(ConnectionLost):
    """For the moment something cannot be stored: that passes, or the connection is given up.

    It is for logs; `run` sees to it that it is tried again.
    """

    def __init__(self, *, location: str, reason: str) -> None:
        super().__init__(location=location, attempts=0, reason=reason)
        self.args = (f"{location}: {reason}",)


class AccessRefused(LocationError):
    """A server answers, and does not let this client in; waiting changes nothing.

    Of what was on its way nothing was stored, unless the error says `OutcomeUnknown`.
    """

    def __init__(self, message: str, *, location: str, reason: str, hint: str) -> None:
        super().__init__(f"{message}: {reason}; {hint}", location=location)
        self.reason = reason
        self.hint = hint


class AuthenticationFailed(AccessRefused):
    """A name and a password are wanted, or others, or in another way."""

    def __init__(
        self,
        *,
        location: str,
        reason: str,
        hint: str = "look at security.protocol and the sasl.* settings of the location",
    ) -> None:
        super().__init__(
            f"{location} does not let this client in",
            location=location,
            reason=reason,
            hint=hint,
        )


class TlsFailed(AccessRefused):
    """Only one side speaks TLS, or one does not trust the other's certificate."""

    def __init__(
        self,
        *,
        location: str,
        reason: str,
        hint: str = "look at security.protocol, ssl.ca.location and the other ssl.* settings "
        "of the location",
    ) -> None:
        super().__init__(
            f"no TLS connection with {location}",
            location=location,
            reason=reason,
            hint=hint,
        )


class RemoteError(LocationError):
    """What the server said has no name of its own here. ``code`` is Kafka's word for it."""

    def __init__(self, *, location: str, code: str, reason: str, topic: str | None = None) -> None:
        super().__init__(f"{location} says {code}: {reason}", location=location)
        self.code = code
        self.reason = reason
        self.topic = topic
