"""Writes docs/validation.md: every published run beside what the planner says of it.

    python tools/validation_page.py [FILE]

A test compares the page with what is said today; run this when it fails, and read what has changed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from homegrown.plan.validate.markdown import markdown
from homegrown.plan.validate.read import shipped_runs
from homegrown.plan.validate.replay import replay_runs
from homegrown.plan.validate.scene import Scene

PAGE = Path(__file__).parents[1] / "docs/validation.md"


def main(argv: list[str]) -> int:
    """Write the page."""
    path = Path(argv[0]) if argv else PAGE
    path.write_text(markdown(replay_runs(shipped_runs(), Scene())), "utf-8")
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
