import pytest
from hypothesis import given
from hypothesis import strategies as st

from homegrown.serve.api.seal import Seal

SEAL = Seal(b"0123456789abcdef")


@given(st.text())
def test_what_is_sealed_opens(text):
    assert SEAL.open(SEAL.seal(text)) == text
    assert SEAL.verify(text, SEAL.sign(text))


def test_others_do_not_open_it():
    other = Seal()
    assert other.open(SEAL.seal("thought")) is None
    assert not other.verify("thought", SEAL.sign("thought"))
    assert not SEAL.verify("though", SEAL.sign("thought"))


@given(st.integers(0, 60), st.sampled_from("AZ09-_=\n\u00e9"))
def test_a_changed_seal_does_not_open(place, letter):
    sealed = SEAL.seal("thought")
    changed = sealed[:place] + letter + sealed[place + 1 :]
    assert SEAL.open(changed) in ((None, "thought") if changed == sealed else (None,))


@given(st.text())
def test_anything_else_does_not_open(text):
    assert SEAL.open(text) is None
    assert SEAL.open("hg1." + text) is None
    assert not SEAL.verify("", text)


def test_a_signature_is_no_seal():
    assert SEAL.open(SEAL.sign("thought")) is None


def test_a_short_secret_is_refused():
    with pytest.raises(ValueError, match="at least 16"):
        Seal(b"short")
