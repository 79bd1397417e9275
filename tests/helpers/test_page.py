"""The count that outlives a helper: shared memory, exact after SIGKILL."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from helperd.helpers._page import counter
from helperd.page import make_page, produced

SUICIDE = """
    import os, signal, sys
    os.dup2(int(sys.argv[1]), 5)
    from helperd.helpers._port import Port
    from helperd.helpers._writer import PlainWriter, V3Writer
    port = Port(os.open("/dev/null", os.O_WRONLY), lambda: None)
    writer = V3Writer(port, lambda _: None, lambda _: b"x", dlt=1, limit=16383, next_seqno=lambda: 1)
    for _ in range(int(sys.argv[2])):
        writer.packet(bytes(100))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("packets", [0, 1, 999, 12_345])
def test_a_count_outlives_a_sigkill_and_is_exact(packets, root):
    page = make_page()
    try:
        argv = [sys.executable, "-c", textwrap.dedent(SUICIDE), str(page), str(packets)]
        done = subprocess.run(argv, pass_fds=(page,), cwd=root, check=False)
        assert done.returncode == -signal.SIGKILL
        assert produced(page) == packets
    finally:
        os.close(page)


def test_the_size_of_a_page_is_sealed():
    page = make_page()
    try:
        with pytest.raises(PermissionError):
            os.ftruncate(page, 0)
    finally:
        os.close(page)


def test_a_descriptor_that_is_no_page_is_left_alone(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(bytes(4096))
    fd = os.open(file, os.O_RDWR)
    try:
        count = counter(fd)
        count[0] += 7
        assert count[0] == 7
        assert file.read_bytes() == bytes(4096)
        os.fstat(fd)
    finally:
        os.close(fd)
    assert counter(fd)[0] == 0, "one that is closed is no page either"
