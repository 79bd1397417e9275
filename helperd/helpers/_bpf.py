"""Capture filters: an expression in tcpdump's language becomes instructions that the kernel runs.

Rules:
  1. ``tcpdump -ddd`` compiles; libpcap's language is not written a second time. The expression stands behind
     ``--``, so it can never be read as an option.
  2. The compiler opens no device: an empty capture of the interface's link type on its stdin tells it link type
     and snap length. Only words that read what the kernel keeps beside a packet (``vlan``, ``inbound``) make
     it look at the interface itself, which must be up then.
  3. Without an expression the program has one instruction: keep so many bytes.

Source of facts: tcpdump(1), pcap-filter(7); Linux, Documentation/networking/filter.rst.
"""

from __future__ import annotations

import os
import re
import struct
from typing import Final

from helperd.errors import HelperdError
from helperd.helpers.sdk import Refused

PROGRAMS: Final = (
    "/usr/bin/tcpdump",
    "/usr/sbin/tcpdump",
    "/usr/local/bin/tcpdump",
    "/usr/local/sbin/tcpdump",
)
MAX_EXPRESSION: Final = 8192
COMPILE_S: Final = 5.0
_RETURN: Final = 0x06
_MAX_ROWS: Final = 4096  # the kernel takes no more
_BESIDE = re.compile(r"\b(vlan|inbound|outbound|ifindex)\b")
Program = list[tuple[int, int, int, int]]
"""Instructions: code, jump if true, jump if false, constant."""


def keep(snaplen: int) -> Program:
    """The program of no filter: everything, so many bytes of it."""
    return [(_RETURN, 0, 0, snaplen)]


def compile_filter(expression: str, linktype: int, snaplen: int, interface: str) -> Program:
    """Compile an expression.

    Args:
        expression: in tcpdump's language; empty: none.
        linktype: of the packets as they pass the filter, a LINKTYPE number of files.
        snaplen: bytes to keep of a packet that passes.
        interface: its name, for the words that need it.

    Raises:
        Refused: "bad-definition", in tcpdump's words; "not-installed".
    """
    if not expression.strip():
        return keep(snaplen)
    if len(expression) > MAX_EXPRESSION or not expression.isprintable():
        raise Refused(f"filter: printable text of at most {MAX_EXPRESSION} characters", "bad-definition")
    tcpdump = next((path for path in PROGRAMS if os.access(path, os.X_OK)), None)
    if tcpdump is None:
        raise Refused("filter: needs tcpdump to compile it; install the package tcpdump", "not-installed")
    from helperd.helpers._program import ask

    argv = [tcpdump, "-n", "-ddd"]
    if _BESIDE.search(expression):
        argv += ["-p", "-s", str(snaplen), "-i", interface, "--", expression]
        said = ask(argv, COMPILE_S)
    else:
        capture, feed = os.pipe2(os.O_CLOEXEC)
        try:
            os.write(feed, struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, snaplen, linktype))
            os.close(feed)
            said = ask([*argv, "-r", "-", "--", expression], COMPILE_S, stdin=capture)
        finally:
            os.close(capture)
    if said.status:
        lines = [line.removeprefix("tcpdump: ") for line in said.errors.splitlines() if line.strip()]
        reason = next((line for line in reversed(lines) if not line.startswith("reading from")), "no reason")
        raise Refused(f"filter {expression!r}: {reason}; see pcap-filter(7)", "bad-definition")
    return _rows(said.text)


def _rows(text: str) -> Program:
    """What ``tcpdump -ddd`` prints: a count, then one instruction a line."""
    try:
        count, *lines = text.split("\n")
        rows = [tuple(map(int, line.split())) for line in lines if line]
        program = [(code, jt, jf, k) for code, jt, jf, k in rows]
        if int(count) != len(program) or not 0 < len(program) <= _MAX_ROWS:
            raise ValueError(count)
    except ValueError:
        raise HelperdError("bug", f"tcpdump -ddd printed no program: {text[:80]!r}") from None
    return program
