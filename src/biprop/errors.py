"""The one exception for users' mistakes: its text is the whole message, and the command line ends with exit code 2."""


class UserError(ValueError):
    """A mistake that the user can mend. The message is one line: what, which value, which rule, how to fix it."""
