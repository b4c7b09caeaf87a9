"""Fixtures that tests of several rooms share."""

import os
import shutil

import pytest

# Tensors here are tiny: a second thread gains nothing, and on a busy machine threads that wait for each other take many
# times as long. Set before torch is imported; tests that are about threads set their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium browser; without one the test is skipped, or fails where CI=true promises one."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        reason = f"no browser on this machine (looked for {', '.join(BROWSERS)})"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    return path
