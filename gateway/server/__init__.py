"""Processes, sockets, connections: everything between the kernel and the app."""
