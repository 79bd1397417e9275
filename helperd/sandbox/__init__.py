"""What confines a helper: seccomp filters, Landlock rules, and the system calls that Python lacks.

The launcher's child loads the coarse filter before exec; ``sealing`` has the tiers, which the launcher does without.
"""

PRIVATE_DIR = "HELPERD_DIR"
"""The variable that names a directory that a helper may make for itself; the launcher removes it with the helper."""

ASK_TIMEOUT = "HELPERD_ASK_TIMEOUT"
"""The variable that says how many seconds an adapter gives its program to answer a question; 0: any number."""

TERM_GRACE = "HELPERD_TERM_GRACE"
"""The variable that says how many seconds an adapter gives its program between SIGTERM and SIGKILL."""
