"""The helper side: the SDK and the bundled helpers, each run as a process of its own. Never imports trio."""
