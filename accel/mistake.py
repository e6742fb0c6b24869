"""Mistake: what the user asked for cannot be done, as opposed to a defect in this package."""


class Mistake(ValueError):
    """What was asked for is wrong; the text says what, why and what to do instead.

    The command line prints it as a sentence. Any other exception is a defect and keeps its traceback.
    """
