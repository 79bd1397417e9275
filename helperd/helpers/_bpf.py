"""Capture filters: an expression in tcpdump's language becomes instructions that the kernel runs.

Rules:
  1. ``tcpdump -ddd`` compiles; libpcap's language is not written a second time. The expression stands behind
     ``--``, so it can never be read as an option.
  2. The compiler opens no device: an empty capture of the interface's link type on its stdin tells it link type
     and snap length. Only words that read what the kernel keeps beside a packet (``vlan``, ``inbound``) make
     it look at the interface itself, which must be up then.
  3. Without an expression the program has one instruction: keep so many bytes.
  4. A cooked header is made behind the filter, by us. What reads its fields is made to read what the kernel knows
     beside the packet; what reads behind it reads that much earlier; the length is counted with it.

Source of facts: tcpdump(1), pcap-filter(7); Linux, Documentation/networking/filter.rst and include/uapi/linux/filter.h.
"""

from __future__ import annotations

import os
import re
import struct
from typing import Final

from helperd.errors import HelperdError
from helperd.helpers._packetlink import Framing
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
_LOAD, _JUMP, _ADD, _EQUAL = 0x00, 0x05, 0x04, 0x15
_ABSOLUTE, _INDEXED, _LENGTH, _HEADER_LENGTH = 0x20, 0x40, 0x80, 0xA0  # where a load reads
_SIZE, _HALF, _BYTE, _WORD = 0x18, 0x08, 0x10, 0x00
_BESIDE_PACKET: Final = 0xFFFFF000  # from here on a load reads what the kernel knows beside the packet
_PROTOCOL, _DIRECTION, _INTERFACE, _HARDWARE = 0, 4, 8, 28
_FIELDS: Final = {
    Framing.SLL: {(0, _HALF): _DIRECTION, (2, _HALF): _HARDWARE, (14, _HALF): _PROTOCOL},
    Framing.SLL2: {
        (0, _HALF): _PROTOCOL,
        (4, _WORD): _INTERFACE,
        (8, _HALF): _HARDWARE,
        (10, _BYTE): _DIRECTION,
    },
}
"""Fields of cooked headers, by offset and size, and where the kernel has them."""
_LOOPBACK, _OUTGOING = 772, 4
_MAX_ROWS: Final = 4096  # the kernel takes no more
_BESIDE = re.compile(r"\b(vlan|inbound|outbound|ifindex)\b")
Program = list[tuple[int, int, int, int]]
"""Instructions: code, jump if true, jump if false, constant."""


def keep(snaplen: int) -> Program:
    """The program of no filter: everything, so many bytes of it."""
    return [(_RETURN, 0, 0, snaplen)]


def heard_once(program: Program) -> Program:
    """A program that passes over what a loopback interface sends, which is heard again as it is received."""
    return [
        (_LOAD | _ABSOLUTE, 0, 0, _BESIDE_PACKET + _HARDWARE),
        (_EQUAL, 0, 3, _LOOPBACK),
        (_LOAD | _ABSOLUTE, 0, 0, _BESIDE_PACKET + _DIRECTION),
        (_EQUAL, 0, 1, _OUTGOING),
        (_RETURN, 0, 0, 0),
        *program,
    ]


def compile_filter(
    expression: str, linktype: int, snaplen: int, interface: str, framing: Framing = Framing.PLAIN
) -> Program:
    """Compile an expression.

    Args:
        expression: in tcpdump's language; empty: none.
        linktype: of the packets as they are handed on, a LINKTYPE number of files.
        snaplen: bytes to keep of a packet that passes.
        interface: its name, for the words that need it.
        framing: what the packets lack of that while they pass the filter.

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
    if not framing.header and _BESIDE.search(expression):
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
    program = _rows(said.text)
    return _behind(program, framing, expression) if framing.header else program


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


def _behind(program: Program, framing: Framing, expression: str) -> Program:
    """A program for packets with a cooked header, for those that still lack it.

    Raises:
        Refused: "bad-definition"; it reads what cannot be known so early.
    """
    header, fields = framing.header, _FIELDS[framing]
    found: Program = []
    places: list[int] = []
    for code, jt, jf, k in program:
        places.append(len(found))
        mode = code & 0xE0
        if code & 6 or mode not in {_ABSOLUTE, _INDEXED, _LENGTH, _HEADER_LENGTH} or k >> 31:
            found.append((code, jt, jf, k))
        elif code == _LOAD | _LENGTH:
            found += [(code, jt, jf, k), (_ADD, 0, 0, header)]
        elif mode != _LENGTH and k >= header:
            found.append((code, jt, jf, k - header))
        elif mode == _ABSOLUTE and (k, code & _SIZE) in fields:
            found.append((code, jt, jf, _BESIDE_PACKET + fields[k, code & _SIZE]))
        else:
            raise Refused(
                f"filter {expression!r}: reads what no filter knows of a cooked header; see pcap-filter(7)",
                "bad-definition",
            )
    places.append(len(found))
    for old, new in enumerate(places[:-1]):
        code, jt, jf, k = found[new]
        if code & 7 == _JUMP:
            if code & 0xF0:
                jt, jf = (places[old + 1 + to] - new - 1 for to in (jt, jf))
            else:
                k = places[old + 1 + k] - new - 1
            if max(jt, jf) > 255 or len(found) > _MAX_ROWS:
                raise Refused(
                    f"filter: {len(found)} instructions are too many; write a shorter one", "bad-definition"
                )
            found[new] = (code, jt, jf, k)
    return found
