"""The file system of the tests does what a disk does, and fails when it is told to."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from tests.fuse import mounted


@pytest.mark.timeout(60)
def test_the_file_system_keeps_fails_freezes_and_forgets(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        (disk.path / "folder").mkdir()
        file = disk.path / "folder" / "a.part"
        fd = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        assert os.writev(fd, [b"kept" * 50_000, b"!"]) == 200_001
        os.fsync(fd)
        os.write(fd, b"lost")
        disk.fail("fsync", times=1)
        with pytest.raises(OSError, match="Input/output error"):
            os.fsync(fd)
        disk.power_cut()
        assert os.fstat(fd).st_size == 200_001
        os.ftruncate(fd, 4)
        os.fchmod(fd, 0o640)
        disk.fail("rename2", "rename", number=errno.EROFS)
        with pytest.raises(OSError, match="Read-only"):
            file.rename(file.with_suffix(".pcapng"))
        disk.thaw()
        file.rename(file.with_suffix(".pcapng"))
        assert [entry.name for entry in (disk.path / "folder").iterdir()] == ["a.pcapng"]
        assert file.with_suffix(".pcapng").read_bytes() == b"kept"
        assert file.with_suffix(".pcapng").stat().st_mode & 0o777 == 0o640
        disk.give_room(10)
        with pytest.raises(OSError, match="No space"):
            os.pwrite(fd, b"0123456789", 4)
        disk.freeze("write")
        disk.give_room(None)
        writer = threading.Thread(target=os.pwrite, args=(fd, b"late", 4))
        writer.start()
        while disk.held != ["write"]:
            pass
        disk.thaw()
        writer.join()
        assert file.with_suffix(".pcapng").read_bytes() == b"keptlate"
        disk.fail("flush")
        with pytest.raises(OSError, match="Input/output error"):
            os.close(fd)
        os.unlink(file.with_suffix(".pcapng"))
        disk.kill()
        with pytest.raises(OSError):
            os.listdir(disk.path)
