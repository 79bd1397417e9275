"""Whether a file sink could begin: tried without a trace, in a thread, for a disk may not answer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from helperd.errors import SinkError
from helperd.sinks.listen import group_id
from helperd.sinks.zst import compressor

if TYPE_CHECKING:
    from helperd.config.sinks import SinkSpec


def trial(spec: SinkSpec) -> None:
    """See that the files of a sink could be made now. A disk that is full is no reason: it may have room again.

    Raises:
        SinkError: "sink-failed", "not-installed".
    """
    if spec.compress == "zstd":
        compressor()
    group_id(spec.file_group, spec.path)
    folder = there = os.path.dirname(spec.path)
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        raise SinkError("sink-failed", f"{there} is no directory, so {folder} cannot be made; move it away")
    if not os.access(there, os.W_OK | os.X_OK):
        why = "the file system is mounted read-only" if _read_only(there) else "give it the directory"
        text = f"uid {os.geteuid()} may not make files in {there}: {why}, or choose another path"
        raise SinkError("sink-failed", text)


def _read_only(folder: str) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
