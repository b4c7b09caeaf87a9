"""What goes wrong with generation."""

from __future__ import annotations

from typing import ClassVar

from homegrown.config import UserError


class GenerateError(UserError):
    """A request that cannot be carried out; the message names the setting or the prompt and what would be right."""

    exit_code: ClassVar[int] = 2
