"""The link between two network namespaces: `relay.py NAMESPACE NAMESPACE DELAY_S LOSS`, until its
stdin is closed.

Each namespace gets a device `wire`. Every IP packet that is sent there comes out of the other one
after the delay, and a share of them is lost: what `tc netem` does, on kernels without it. Prints a
line when the devices are there.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import selectors
import struct
import sys
import time
from collections import deque

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
MOST_BYTES = 65536  # of a packet


def device_in(namespace: str) -> int:
    """Make the device in a namespace, and return its end here."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    other = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    for enter in (other, own):
        if libc.setns(enter, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        if enter == other:
            end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", b"wire", IFF_TUN | IFF_NO_PI))
    os.close(own)
    os.close(other)
    return end


def main() -> None:
    """Pass packets on until stdin is closed."""
    first, second, delay_s, loss = (
        device_in(sys.argv[1]),
        device_in(sys.argv[2]),
        *map(float, sys.argv[3:5]),
    )
    chance, other = random.Random(0), {first: second, second: first}
    waiting: deque[tuple[float, int, bytes]] = deque()  # when, where, what
    selector = selectors.DefaultSelector()
    for source in (first, second, sys.stdin.fileno()):
        selector.register(source, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        wait_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for key, _ in selector.select(wait_s):
            if key.fd == sys.stdin.fileno():
                return
            try:
                packet = os.read(key.fd, MOST_BYTES)
            except OSError:  # the device is down
                continue
            if chance.random() >= loss:
                waiting.append((time.monotonic() + delay_s, other[key.fd], packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, target, packet = waiting.popleft()
            try:
                os.write(target, packet)
            except OSError:  # the device is down: the packet is lost
                continue


if __name__ == "__main__":
    main()
