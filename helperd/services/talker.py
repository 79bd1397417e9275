"""``talker``: a few packets a second out of one network interface, for ``helperd demo --live`` and for trying things.

It needs no privilege: the packets are UDP to a multicast group that nobody has to have joined.
"""

from __future__ import annotations

import argparse
import itertools
import socket
import sys
import time
from typing import Final

from helperd.errors import Code
from helperd.printing import say

GROUP: Final = ("239.255.72.68", 7268)  # RFC 2365: organisation-local scope


def build() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="talker", description="Sends numbered packets.", allow_abbrev=False)
    parser.add_argument("--address", required=True, help="IPv4 address of the interface they leave by")
    parser.add_argument("--rate", type=float, default=20.0, help="packets per second (default: 20)")
    return parser


def main(argv: list[str]) -> int:
    """Send until SIGTERM; return the exit status."""
    args = build().parse_args(argv)
    if not 0 < args.rate <= 10000:
        say("--rate is above 0, and 10000 at most", file=sys.stderr)
        return Code.USAGE
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(args.address))
            for number in itertools.count():
                sock.sendto(f"helperd talker, packet {number}".encode(), GROUP)
                time.sleep(1 / args.rate)
        except OSError as error:
            say(f"cannot send from {args.address}: {error.strerror or error}", file=sys.stderr)
            return Code.SYSTEM
    return Code.DONE
