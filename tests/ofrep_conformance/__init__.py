"""A conformance suite for OFREP over HTTP, for any server: see README.md.

Nothing of flagstone is used here but in the tests of the suite itself.
"""
