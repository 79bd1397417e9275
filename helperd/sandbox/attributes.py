"""A process's attributes of prctl(2), under the names that python-prctl has for them.

They stand in for it where it is not installed: it has to be compiled, and a launcher without root can do without.
"""

from __future__ import annotations

import ctypes

from helperd.sandbox.kernel import prctl


def set_pdeathsig(number: int) -> None:
    """Choose the signal that comes when the parent dies; it is lost when the ids change."""
    prctl(1, number)


def set_dumpable(value: int) -> None:
    """Let (1) or forbid (0) others of the same uid to read and trace this process."""
    prctl(4, value)


def set_keepcaps(value: int) -> None:
    """Keep the permitted capabilities when the uid changes from 0."""
    prctl(8, value)


def set_name(name: str) -> None:
    """Set what ps shows as this thread's command, 15 bytes at most."""
    text = ctypes.create_string_buffer(name.encode())
    prctl(15, ctypes.addressof(text))


def set_child_subreaper(value: int) -> None:
    """Become the parent of grandchildren whose parent dies."""
    prctl(36, value)


def set_no_new_privs(value: int) -> None:
    """Make sure that no program executed from here on gains privilege; 1 is the only value."""
    prctl(38, value)


def get_no_new_privs() -> int:
    """Return whether that is so."""
    return prctl(39)
