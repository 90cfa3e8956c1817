"""The one exception that users see, and nothing else."""


class UserError(Exception):
    """Something the user can mend: printed as ``error: what; how to mend it``, without traceback.

    Args:
        what: What is wrong, naming the file, option or value concerned.
        remedy: What to do about it.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what
        self.remedy = remedy
