"""Is there a network at all? One knock at the door, with a deadline that holds."""

from __future__ import annotations

import queue
import socket
import threading
from urllib.parse import urlsplit

from mobilesam.errors import NetworkUnreachableError, WeightsUnavailableError

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SOCKS_PORT = 1080


def require_reachable(url: str, *, connect_timeout_s: float, total_timeout_s: float) -> None:
    """Opens one connection to the server of an address, or to the proxy that leads to it.

    Without a network, name look-ups and retries can take minutes to say so; this says it in time.

    Args:
        url: Address of a file, http or https.
        connect_timeout_s: Time for each of the host's addresses.
        total_timeout_s: Time in all, name look-up included.

    Raises:
        WeightsUnavailableError: No connection within that time.
    """
    host, port = _peer(url)
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def knock() -> None:
        try:
            socket.create_connection((host, port), timeout=connect_timeout_s).close()
        except OSError as error:
            answers.put(error.strerror or str(error) or type(error).__name__)
        else:
            answers.put("")

    # A name look-up takes no timeout, so it is waited for from outside.
    threading.Thread(target=knock, name=f"reach {host}", daemon=True).start()
    try:
        why = answers.get(timeout=total_timeout_s)
    except queue.Empty:
        why = f"no answer within {total_timeout_s:g} s"
    if why:
        message = f"no network: {host}:{port} cannot be reached ({why})"
        raise NetworkUnreachableError(message, f"no network ({host} cannot be reached)")


def _peer(url: str) -> tuple[str, int]:
    """Host and port that a request for this address connects to first."""
    from requests.utils import get_environ_proxies, select_proxy

    proxy = select_proxy(url, get_environ_proxies(url))
    first = url if not proxy else proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urlsplit(first)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise WeightsUnavailableError(
            f"{first!r} is no address to connect to; check the proxy variables of the environment"
        )
    return host, port or _DEFAULT_PORTS.get(parts.scheme, _SOCKS_PORT)
