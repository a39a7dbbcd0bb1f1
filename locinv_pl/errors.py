"""The one exception that a user's input can raise."""


class InputError(ValueError):
    """Bad input: one line that names the file or key, the problem and the mend.

    The command line prints it without a traceback and exits with a non-zero code.
    """
