"""What can go wrong, said once: every error tells what happened, where, and what to do about it."""

from typing import Any


class JaxmdwarfError(Exception):
    """Base of all errors that the package raises on purpose.

    Parameters
    ----------
    message : str
        What is wrong and where.
    remedy : str, optional
        What the user can do about it, one sentence.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message if not remedy else f"{message} Remedy: {remedy}")
        self.message = message
        self.remedy = remedy

    def __reduce__(self):
        # Readers run in worker processes; without this the remedy is lost in the pickle.
        return type(self), (self.message, self.remedy)


class UsageError(JaxmdwarfError):
    """The call makes no sense as given (command-line exit code 2)."""


class WorkFailed(JaxmdwarfError):
    """The call was sensible but nothing usable came of it (command-line exit code 1)."""


class RejectedInput(JaxmdwarfError):
    """One input (a file, a spectrum, a grid node) cannot be used; the others go on.

    The message is the ``reason`` column and the remedy the ``remedy`` column of the rejects table.
    """


class FormatError(JaxmdwarfError):
    """A product on disk (model, grid table, checkpoint) is not what this version reads (exit 2)."""


class MismatchError(JaxmdwarfError):
    """Two objects that must agree (pixel grids, label spaces, shapes) do not."""


class DefaultModelWarning(UserWarning):
    """Nobody chose a model, so the one that comes with the package is used; says what that is."""


def require_one_shape(**arrays: Any) -> None:
    """Refuse arrays that are to be read row by row and differ in shape.

    Parameters
    ----------
    **arrays : array
        Under the names that the message is to give them.

    Raises
    ------
    MismatchError
        If shapes differ.
    """
    if len({one.shape for one in arrays.values()}) > 1:
        shapes = ", ".join(f"{name} {one.shape}" for name, one in arrays.items())
        raise MismatchError(f"{shapes} must have one shape.", "pair them row by row.")
