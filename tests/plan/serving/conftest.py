"""What the tests of serving plans share: the catalogue, models, devices at their best guess."""

import pytest

from homegrown.plan.catalogue import Catalogue
from homegrown.plan.quantity import EXPECTED
from homegrown.plan.serving.clock import Clock
from homegrown.plan.serving.constants import Constants
from homegrown.plan.shapes import preset_shape


@pytest.fixture(scope="session")
def catalogue():
    return Catalogue.load()


@pytest.fixture(scope="session")
def longcat():
    return preset_shape("longcat-2.0")


@pytest.fixture(scope="session")
def deepseek(catalogue):
    return catalogue.shape("deepseek-v3")


@pytest.fixture(scope="session")
def clock_of(catalogue):
    def make(cluster):
        return Clock(catalogue.cluster(cluster).machine(EXPECTED), Constants.at(EXPECTED))

    return make
