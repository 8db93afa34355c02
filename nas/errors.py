"""The errors that a user can cause; the command line turns each into one sentence and an exit status."""


class UserError(ValueError):
    """The input is wrong: the message says what must hold, what came, and what to do (exit status 2)."""


class NotTaken(UserError):
    """A runtime does not take one network: the others may do."""


class NoFeasible(ValueError):
    """No measured candidate meets the limits: the message names the nearest one (exit status 3)."""
