"""Bytes to evaluator types and back. No Starlette here."""
