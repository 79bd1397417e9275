"""Where packets leave: consumer sockets and files."""
