"""Bundled services: unprivileged programs that helperd keeps running, and that are clients of its sockets."""
