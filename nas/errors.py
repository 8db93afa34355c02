"""Errors that users can cause; the command line prints each as one sentence and returns an exit status."""

from nas.sentences import one_line


class UserError(ValueError):
    """Invalid input; the message says what is required, what was given, and what to do (exit status 2).

    The message may hold foreign text: it is made one printable line of bounded length.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class NotTaken(UserError):
    """A runtime does not support one network, although it may support others."""


class NoFeasible(ValueError):
    """No measured candidate meets the limits; the message names the nearest one (exit status 3)."""
