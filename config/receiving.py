"""Where mail comes from: SMTP, LMTP, or a Maildir."""

from __future__ import annotations

import ssl
from typing import Any

from config import settings
from config.environment import SettingsError
from config.run_directory import private_maildir
from salmon_state import ConfigurationError
from salmon_state.mail.receivers import LMTPReceiver, QueueReceiver, SMTPReceiver

__all__ = ["make_receiver"]


def make_receiver() -> SMTPReceiver | QueueReceiver:
    """Returns the receiver, which listens already but takes no mail before it is started.

    Raises:
        SettingsError: It cannot work.
    """
    if settings.receiver_kind == "queue":
        queue = str(private_maildir(settings.queue_directory))
        return QueueReceiver(queue, size_limit=settings.limits.size)
    options: dict[str, Any] = {
        "limits": settings.limits,
        "workers": settings.workers,
        "processes": settings.processes,
        "tls": _certificate(),
    }
    place = f"SALMON_HOST={settings.receiver_host} SALMON_PORT={settings.receiver_port}"
    if settings.receiver_socket:
        place = f"SALMON_SOCKET={settings.receiver_socket}"
        options |= {"socket": settings.receiver_socket, "socket_mode": settings.socket_mode}
    kind = LMTPReceiver if settings.receiver_kind == "lmtp" else SMTPReceiver
    try:
        return kind(settings.receiver_host, settings.receiver_port, **options)
    except OSError as error:
        raise SettingsError(f"{place}: cannot listen there: {error.strerror}") from None
    except ConfigurationError as error:
        raise SettingsError(str(error)) from None


def _certificate() -> ssl.SSLContext | None:
    if not settings.tls_certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key or None)
    except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError
        raise SettingsError(
            f"SALMON_TLS_CERTIFICATE={settings.tls_certificate}: expected a certificate and its "
            f"key in PEM files: {error}"
        ) from None
    return context
