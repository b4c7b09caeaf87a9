import pytest

from homegrown import ops
from homegrown.config import ConfigError


def test_an_unknown_implementation_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"'experts' has no implementation 'magic'; it has: reference, sorted"):
        ops.OPS["experts"].use("magic")


def test_using_restores_what_was_active():
    before = ops.table()
    with pytest.raises(ZeroDivisionError), ops.using(experts="reference", attention="reference"):
        assert ops.table()["experts"] == "reference"
        raise ZeroDivisionError
    assert ops.table() == before


def test_every_op_says_what_it_computes():
    assert all(op.__doc__ for op in ops.OPS.values())
