"""Coverage-guided fuzzing of the scanner and every decoder: bytes are parsed or refused by name, nothing else.

    python tests/fuzz/fuzz_wire.py [--seconds=60] [libFuzzer options] [CORPUS]

Needs atheris. The corpus is tests/fuzz/corpus unless another is named; new findings of coverage are added to it, so
give a copy when it should stay as it is. A finding is written to crash-* and ends the run with status 77.

The first byte of an input says who listens: bits 0-1 the generation (3: any), bit 2 the role, bits 3-4 the phase, bit
5 whether checksums are checked, bit 6 whether the bulk extension is agreed (interfaces 7 and 9), bit 7 whether the rest
is fed in two reads. What follows is the stream.
"""

from __future__ import annotations

import pathlib
import struct
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

GENERATIONS = ("v3", "v2", "v0")
PHASES = ("GREETING", "READY", "OPENING", "OPEN")


def one_input(data: bytes) -> None:
    """The invariant for one input."""
    from helperd.errors import PROBLEMS, RemoteProtocolError
    from helperd.wire.frames import MAX_FRAME, Kind, Run
    from helperd.wire.generations import named
    from helperd.wire.session import Phase, Role, Session

    if not data:
        return
    head, stream = data[0], data[1:]
    role = Role.HELPER if head & 4 else Role.SUPERVISOR
    generation = None if head & 3 == 3 else named(GENERATIONS[head & 3])
    session = Session(role, generation=generation, verify=bool(head & 32))
    session.phase = Phase[PHASES[head >> 3 & 3]]
    if head & 64:
        session._scanner.bulk = frozenset({7, 9})
    middle = len(stream) // 2 if head & 128 else len(stream)

    def take(item: object) -> None:
        if not isinstance(item, Run):
            return
        if item.kind is Kind.BULK:
            found = 0
            for number, slices, _, packets in named("v3").blocks(item):
                data, at = b"".join(slices), 0
                while at < len(data):
                    kind, size, interface = struct.unpack_from("<III", data, at)
                    if (kind, interface) != (6, number) or number not in {7, 9} or size < 32:
                        raise AssertionError("a bulk block is not ours, or none")
                    at += size
                    found += 1
                if at != len(data) or packets < 1:
                    raise AssertionError("bulk blocks run over their frame")
            if found != item.packets:
                raise AssertionError("bulk packets are miscounted")
            return
        speaker = session.generation
        outcomes = []
        for packets in (speaker.packets, speaker.packets_general):
            try:
                outcomes.append(repr(list(packets(item))))
            except RemoteProtocolError as error:
                outcomes.append(error.problem)
        if outcomes[0] != outcomes[1]:
            raise AssertionError(f"the quick way says {outcomes[0]}, the general one {outcomes[1]}")

    try:
        for read in (stream[:middle], stream[middle:]):
            if read:
                for item in session.receive(read):
                    take(item)
                if session.pending >= MAX_FRAME:
                    raise AssertionError("more than a frame is held")
        session.receive_eof()
    except RemoteProtocolError as error:
        if error.problem not in PROBLEMS:
            raise AssertionError(f"{error.problem} is no problem word") from error
        for item in error.before:
            take(item)


def main() -> int:
    import atheris

    with atheris.instrument_imports(include=["helperd.wire"]):
        from helperd.wire import bulk, frames, mpack, pbcodec, pbpackets, session, v0, v2, v3

    del bulk, frames, mpack, pbcodec, pbpackets, session, v0, v2, v3
    arguments = [
        f"-max_total_time={word[10:]}" if word.startswith("--seconds=") else word for word in sys.argv
    ]
    if all(word.startswith("-") for word in arguments[1:]):
        arguments.append(str(ROOT / "tests" / "fuzz" / "corpus"))
    if not any(word.startswith("-max_len") for word in arguments):
        arguments.insert(1, "-max_len=4096")
    atheris.Setup(arguments, one_input)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
