"""One pure-ASGI class per file; nothing about a request is kept on self."""
