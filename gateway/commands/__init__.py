"""What each command of the command line does: one function each, (settings as loaded, arguments) -> exit code.

A command prints its answer to stdout and raises CommandFailed when there is none.
"""


class CommandFailed(Exception):
    """A command was refused: one sentence, and perhaps a line for each detail."""
