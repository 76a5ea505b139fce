"""Every error that mzsr raises on purpose, each also a builtin type, each with its exit code.

A message says what is wrong, where, why, and what to type instead.
"""

from __future__ import annotations


class MzsrError(Exception):
    """Root of the tree. ``exit_code`` is what the command line returns for it."""

    exit_code = 1


class UsageError(MzsrError, ValueError):
    """An option or argument makes no sense (exit 2)."""

    exit_code = 2


class InputError(MzsrError, ValueError):
    """A file or array cannot be used as it is (exit 3)."""

    exit_code = 3


class MissingInputError(InputError, FileNotFoundError):
    """A file that was named is not there (exit 3)."""


class KernelError(InputError):
    """A blur kernel is not a finite 2-D array that sums to 1 (exit 3)."""


class WeightsError(InputError):
    """A weights file is broken or does not fit what it is asked to do (exit 3)."""


class ResourceError(MzsrError, RuntimeError):
    """A device, memory or the disk is missing, full or refused (exit 4)."""

    exit_code = 4


class DeviceError(ResourceError):
    """The device that was asked for is not on this machine (exit 4)."""


class OutputError(ResourceError, OSError):
    """The output cannot be written: folder missing or read-only, disk full (exit 4)."""


class OutputExistsError(UsageError, FileExistsError):
    """The output is already there and ``--overwrite`` was not given (exit 2)."""


class RankError(ResourceError):
    """Another process of a training under torchrun has stopped or is out of reach (exit 4)."""


class DivergedError(UsageError, ArithmeticError):
    """The step sizes asked for lead a training out of the finite numbers (exit 2)."""


class ResumeError(MzsrError, RuntimeError):
    """What is to be resumed was made from another input or other settings (exit 6)."""

    exit_code = 6


class PartialFailure(MzsrError, RuntimeError):
    """Some inputs of several failed (exit 5)."""

    exit_code = 5
