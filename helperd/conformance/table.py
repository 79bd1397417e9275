"""Run the checks, and show what they found: a row for each check, a column for each generation the helper speaks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from helperd.conformance.checks import CHECKS, Untried, definition_of, generations_of
from helperd.conformance.subject import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from helperd.conformance.checks import Check
    from helperd.conformance.subject import Subject

GOOD, BAD, UNTRIED = "ok", "FAULT", "-"


class Finding(NamedTuple):
    """One cell: a check in one generation."""

    check: str
    generation: str
    verdict: str
    text: str = ""


def examine(
    subject: Subject,
    only: Collection[str] = (),
    progress: Callable[[str], None] = lambda _: None,
    jobs: int = 1,
) -> list[Finding]:
    """Lead a helper through the checks.

    Args:
        subject: the helper; without a definition the first device that it lists is tried.
        only: names of checks; empty: all.
        progress: told what is done next.
        jobs: checks at a time; more than one for a helper that may be open several times at once.

    Raises:
        Fault: it answers in no generation at all.
    """
    todo = []
    for one in generations_of(subject):
        with one.start() as talk:
            name = talk.session.generation.name if talk.session.generation else ""
        if not one.definition:
            one = one._replace(definition=definition_of(one))
        todo += [(name, check, one) for check in CHECKS if not only or check.name in only]

    def judge(item: tuple[str, Check, Subject]) -> Finding:
        name, check, one = item
        progress(f"{name} {check.name}")
        return Finding(check.name, name, *_judge(check.run, one))

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(judge, todo))


def _judge(run: Callable[[Subject], None], subject: Subject) -> tuple[str, str]:
    try:
        run(subject)
    except Fault as fault:
        return BAD, str(fault)
    except Untried as why:
        return UNTRIED, str(why)
    return GOOD, ""


def lines(findings: list[Finding]) -> list[str]:
    """The table as text, and below it a line for each fault."""
    names = list(dict.fromkeys(finding.generation for finding in findings))
    cells = {(finding.check, finding.generation): finding for finding in findings}
    checks = [check for check in CHECKS if any((check.name, name) in cells for name in names)]
    width = max((len(check.name) for check in checks), default=5)
    shown = [" ".join([f"{'check':{width}}", *(f"{name:5}" for name in names), "what has to happen"])]
    for check in checks:
        row = [
            f"{cells[check.name, name].verdict if (check.name, name) in cells else '':5}" for name in names
        ]
        shown.append(" ".join([f"{check.name:{width}}", *row, check.what]))
    faults = (finding for finding in findings if finding.verdict == BAD)
    return [*shown, *(f"{finding.check} ({finding.generation}): {finding.text}" for finding in faults)]
