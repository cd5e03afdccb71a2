"""The one exception that means: what the user gave cannot be used."""


class InputError(ValueError):
    """A fault in what the user gave; its message names the file, the key and the remedy.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """
