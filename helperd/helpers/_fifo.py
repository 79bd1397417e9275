"""FIFOs for a program that a helper starts, in a directory that nobody else can enter.

A name under ``/dev/fd`` exists in one process only; a FIFO can be opened by whatever the program starts.

Who removes them: ``close``, on every path that Python still walks. A helper that is killed cannot; then the launcher
does, with the helper's own uid, once nothing of its process tree is left: it names the directory in HELPERD_DIR
before the helper begins. Under a Kismet server, which gives no name, a killed helper leaves the directory behind.
"""

from __future__ import annotations

import contextlib
import os

from helperd.errors import HelperdError
from helperd.sandbox import PRIVATE_DIR


class Fifos:
    """A directory with FIFOs in it.

    Raises:
        HelperdError: "no-resources"; it cannot be made.
    """

    def __init__(self) -> None:
        self._paths: list[str] = []
        try:
            self._folder = _make_directory()
        except OSError as error:
            raise _refusal(error) from None

    def make(self, name: str) -> str:
        """Make a FIFO that only this user can open; returns its path.

        Raises:
            HelperdError: "no-resources"; it cannot be made.
        """
        path = f"{self._folder}/{name}"
        try:
            os.mkfifo(path, 0o600)
        except OSError as error:
            raise _refusal(error) from None
        self._paths.append(path)
        return path

    def close(self) -> None:
        """Remove everything; harmless when done twice."""
        for path in self._paths:
            with contextlib.suppress(OSError):
                os.unlink(path)
        self._paths.clear()
        with contextlib.suppress(
            OSError
        ):  # the program has put something in it: the launcher removes that too
            os.rmdir(self._folder)


def _make_directory() -> str:
    path = os.environ.get(PRIVATE_DIR)
    if path:
        os.mkdir(path, 0o700)
        return path
    import tempfile

    return tempfile.mkdtemp(prefix="helperd-")


def _refusal(error: OSError) -> HelperdError:
    text = f"cannot make a FIFO for the program ({error.filename}): {error.strerror}; it needs room in /tmp"
    return HelperdError("no-resources", text)
