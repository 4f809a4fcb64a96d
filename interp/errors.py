"""The one exception that a user is meant to see."""


class UserError(Exception):
    """Bad input: printed as one sentence, exit code 2."""
