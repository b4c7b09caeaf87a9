"""Errors that are the user's to read: one sentence, no traceback."""

from __future__ import annotations

from typing import ClassVar


class UserError(ValueError):
    """Something the user can put right: a key, a file, a dataset, a device.

    Its message is one sentence that says what was wrong, where, and what would be right. The command line prints it
    without a traceback and exits with `exit_code`.
    """

    exit_code: ClassVar[int] = 1
    """Exit status of a command that ends so: 1, the work failed; 2, the request itself cannot be carried out."""


class UsageError(UserError):
    """A command line that cannot be carried out: an unknown command, a misplaced argument."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration that cannot work; the message names the key, the value and what would be right."""

    exit_code = 2


class DeviceError(UserError):
    """A device that this machine does not have, or that cannot do what was asked; the message lists what there is."""
