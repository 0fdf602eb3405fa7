"""What can go wrong at the boundary, each kind with its exit code."""


class StnError(Exception):
    """A fault the user can mend: `what` happened and how to `fix` it, one line each.

    The command line prints `error: <what>. <fix>` and exits with `exit_code`.
    """

    exit_code = 1

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what, fix)
        self.what = what.rstrip(".")
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}. {self.fix}".rstrip()


class UsageError(StnError):
    """A wrong option, config key or value."""

    exit_code = 2


class DataError(StnError):
    """A data file that is missing, damaged or of the wrong kind."""

    exit_code = 3


class CheckpointError(StnError):
    """A run or checkpoint that is missing, damaged or of another model."""

    exit_code = 4


class NumericsError(StnError):
    """NaN or infinity where a finite number is needed."""

    exit_code = 5


class ResourceError(StnError):
    """No disk, memory, device, port or lock where one is needed."""

    exit_code = 6


class LostRankError(ResourceError):
    """Another process of a distributed run has ended or does not answer, so this one, number `rank`, ends too.

    Rank 0 tells of it; the others are silent.
    """

    def __init__(self, what: str, fix: str = "", *, rank: int) -> None:
        super().__init__(what, fix)
        self.rank = rank
