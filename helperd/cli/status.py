"""``helperd status [NAME]``: what a running daemon is doing."""

from __future__ import annotations

import os
import sys

from helperd.cli import running
from helperd.cli.parser import columns
from helperd.errors import Code
from helperd.printing import say, say_json, write
from helperd.table import UNWANTED, by_reason, count, fit, losses, render, span, summary
from helperd.visible import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

_WIDE = 400  # columns where nobody counts them: a pipe or a file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="one source, with its details")
    running.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Ask once, and print.

    Returns:
        0. The state of the sources does not matter; ``helperd wait`` is for scripts that need one.
    """
    with running.connect(args) as client:
        snapshot = client.call("GetStatus", source=args.name)
    if args.json:
        say_json(snapshot, 2)
        return Code.DONE
    terminal = sys.stdout.isatty()
    width = columns() if terminal else _WIDE
    if args.name is None:
        say(fit(summary(snapshot), width))
    else:
        snapshot = snapshot | {"consumers": [], "services": [], "sinks": [], "gone": {}}
    for line in render(snapshot, width, color=terminal and "NO_COLOR" not in os.environ):
        write(f"{line}\n")
    if args.name is not None:
        say(*details(snapshot["sources"][0]))
    return Code.DONE


def details(source: dict[str, Any]) -> list[str]:
    """One source, a fact a line; facts that there are not are left out."""
    ended = source.get("exit")
    lost = source.get("lost") or {}
    where, unwanted = (
        by_reason({reason: packets for reason, packets in lost.items() if (reason in UNWANTED) is idle})
        for idle in (False, True)
    )
    facts = {
        "definition": source.get("definition"),
        "helper": source.get("helper"),
        "hardware": source.get("hardware"),
        "channel": source.get("channel"),
        "hops over": ", ".join(source.get("hop_channels") or []),
        "uuid": source.get("uuid"),
        "link types": ", ".join(map(str, source.get("linktypes") or [])),
        "wire": source.get("generation"),
        "process": f"pid {source['pid']}, incarnation {source.get('incarnation')}"
        if source.get("pid")
        else "",
        "in this state": f"since {span(source.get('since_s'))}",
        "why": source.get("why"),
        "packets": f"{source.get('packets', 0):,} ({source.get('bytes', 0):,} bytes)",
        "lost": f"{losses(source):,} ({where})" if where else "0",
        "not asked for": unwanted,
        "changed": ", ".join(
            f"{what} {count(packets)}" for what, packets in (source.get("changed") or {}).items()
        ),
        "last end": f"{ended['problem']}: {ended['text']}" if ended else "",
    }
    lines = ["", *(f"{name + ':':<15}{visible(fact)}" for name, fact in facts.items() if fact)]
    vitals = source.get("vitals")
    if vitals:
        told = ", ".join(
            f"{key} {_short(value)}" for key, value in vitals.items() if isinstance(value, int | float | str)
        )
        lines.append(f"{'vitals:':<15}{visible(told)}")
    stderr = source.get("stderr") or []
    if stderr:
        lines += ["", "last words on stderr:", *(f"  {visible(line)}" for line in stderr)]
    return lines


def _short(value: object) -> str:
    return (
        f"{value:.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    )
