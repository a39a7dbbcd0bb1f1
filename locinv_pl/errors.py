"""The one exception that a user's input can raise."""


def one_line(text: str) -> str:
    """A message without its line breaks."""
    return " ".join(text.split())


class InputError(ValueError):
    """Bad input: one line that names the file or key, the problem and the mend.

    The command line prints it without a traceback and exits with a non-zero code. Line breaks in the values that
    it quotes become spaces.
    """

    def __init__(self, message: str):
        super().__init__(one_line(message))
