"""Whether a Ray cluster answers at an address, before Ray itself is asked, which would try for a quarter of an hour."""

import os
import socket
import threading

from nas.errors import UserError

_WAIT_S = 5.0
_LONGEST_S = 12.0
# How HTTP/2 begins, which Ray speaks: the client's first words and empty settings; a server answers with its own.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_SETTINGS_FRAME, _TYPE_AT = 4, 3


def check_answers(address: str) -> None:
    """Raise UserError unless a server that may be Ray's answers at an address, within seconds.

    Args:
        address: `host:port`, `ray://host:port`, or `auto`: that of the session on this machine.
    """
    where = _resolved(address) if address == "auto" else address
    host, _, port = where.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UserError(f"the address of a Ray cluster must be auto or host:port, got {address!r}")
    found: list[str] = []
    # In a thread, because finding the machine of a name knows no time limit.
    asking = threading.Thread(target=lambda: found.append(_trouble(host.strip("[]"), int(port))), daemon=True)
    asking.start()
    asking.join(_LONGEST_S)
    trouble = found[0] if found else "no answer"
    if trouble:
        raise UserError(
            f"no Ray cluster answers at {address} ({trouble}); look whether it runs and can be reached from here"
        )


def _resolved(address: str) -> str:
    from ray._private.services import canonicalize_bootstrap_address

    try:
        found = canonicalize_bootstrap_address(address)
    except ConnectionError:
        found = None
    if not found:
        raise UserError(
            "--ray-address auto needs a session of Ray on this machine, there is none; `ray start` begins one"
        )
    return str(found)


def _trouble(host: str, port: int) -> str:
    """Why no such server answers; empty if one does."""
    try:
        with socket.create_connection((host, port), timeout=_WAIT_S) as connection:
            connection.settimeout(_WAIT_S)
            # What is encrypted begins otherwise; that somebody listens is all that can be seen then.
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return ""
            connection.sendall(_HELLO)
            frame = connection.recv(9)
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return error.strerror or str(error)
    return "" if len(frame) > _TYPE_AT and frame[_TYPE_AT] == _SETTINGS_FRAME else "what answers is another program"
