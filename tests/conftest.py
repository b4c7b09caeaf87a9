"""Fixtures that tests of several rooms share."""

import logging
import os
import shutil
from collections.abc import Iterator

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


@pytest.fixture(autouse=True)
def loggers_as_they_were() -> Iterator[None]:
    """A server that runs in a test sets up the process's loggers; the next test must not find them so."""
    loggers = [logging.getLogger(name) for name in ("homegrown.serve", "uvicorn.error")]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.propagate = propagate
        logger.setLevel(level)
