"""helperd runs privileged capture helpers and hands their packets to unprivileged consumers."""

__version__ = "0.1.0"
