"""Faults that a person can mend: one line that says what was expected, what was found and what to type next."""


class UserError(ValueError):
    """A fault in the configuration or the input, printed as one line without a traceback."""


class Corrupt(UserError):
    """An artifact that no longer matches its manifest."""
