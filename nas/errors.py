"""Errors that users can cause; the command line prints each as one sentence and returns an exit status."""


class UserError(ValueError):
    """Invalid input; the message says what is required, what was given, and what to do (exit status 2)."""


class NotTaken(UserError):
    """A runtime does not support one network, although it may support others."""


class NoFeasible(ValueError):
    """No measured candidate meets the limits; the message names the nearest one (exit status 3)."""
