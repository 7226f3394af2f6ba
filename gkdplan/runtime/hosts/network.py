"""The network interface that leads to the other hosts."""

import fcntl
import socket
import struct

_SIOCGIFADDR = 0x8915  # linux/sockios.h


def interface_towards(host: str, port: int) -> str | None:
    """The name of the interface with the IPv4 address from which this host reaches the other, None
    where there is none.

    gloo would take the interface that this host's own name leads to: often the loopback, on which
    no other host can answer.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))  # a datagram's: nothing is sent
            address = probe.getsockname()[0]
            for _, name in socket.if_nameindex():
                if _address_of(probe, name) == address:
                    return name
    except OSError:
        return None
    return None


def _address_of(probe: socket.socket, name: str) -> str | None:
    try:
        answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
    except OSError:
        return None
    return socket.inet_ntoa(answer[20:24])
