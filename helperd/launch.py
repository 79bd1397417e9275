"""What is executed as the launcher, with -I -S: finds the libraries and hands over to privsep.py.

A script is compiled at each start, and what that takes stays: 2 MB for as long as the launcher runs. So this one is
small, and everything else is loaded compiled.
"""

from __future__ import annotations

import os
import signal
import sys

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def places() -> list[str]:
    """Return the directories where helperd, prctl and tomli may be; only without root HELPERD_PATH counts."""
    library = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    near = [HERE, f"{HERE}/.venv/{library}", f"{os.path.dirname(os.path.dirname(sys.executable))}/{library}"]
    named = os.environ.get("HELPERD_PATH", "").split(os.pathsep) if os.geteuid() else []
    found = dict.fromkeys([*named, *near, "/usr/lib/python3/dist-packages"])
    return [place for place in found if place.startswith("/") and os.path.isdir(place)]


def cure(name: str) -> str:
    """Return what installs a library that this interpreter lacks, where it stands."""
    if os.path.exists(f"{HERE}/scripts/bootstrap"):
        return f"{HERE}/scripts/bootstrap"
    if sys.executable.startswith("/usr/bin/"):
        return f"apt install python3-{name}"
    pip = f"{sys.executable} -m pip install"
    if name == "prctl":
        return f"{pip} 'helperd[root]' (which is compiled: apt install gcc libcap-dev python3-dev)"
    return f"{pip} 'helperd'"


def begin() -> int:
    """Serve as the command line says; return the exit status."""
    sys.path += places()
    os.umask(0o022)  # whoever started us: what Python compiles now is for nobody else to write
    try:
        from helperd.privsep import main
    except ModuleNotFoundError as error:
        if error.name != "tomli":
            raise
        sys.stderr.write(f"helperd-launcher: {sys.executable!a} has no tomli: {cure('tomli')}\n")
        return 69
    try:
        return main(sys.argv[1:])
    finally:  # Python gives the handlers up before the process has ended: what comes now is no reason for the end
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


if __name__ == "__main__":
    sys.exit(begin())
