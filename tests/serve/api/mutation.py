"""Bodies that are almost right, for fuzzing."""

import json

from hypothesis import strategies as st

odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 30),
    st.sampled_from([2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308, -1e308, 5e-324, -0.0, 0.5, 1.5]),
    st.text(max_size=4),
    st.sampled_from(["", "\x00", "<longcat_think>", "</longcat_s>", "required", "none", "auto", "{{x}}", "[", "{"]),
)
NAMES = ["type", "name", "text", "role", "content", "id", "input", "source", "tools", "output", "$ref", "x"]
values = st.recursive(
    odd,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def mutated(draw, body):
    """A valid body in which one to three things, anywhere, are something else, gone, or in another's place."""
    result = json.loads(json.dumps(body))
    for _ in range(draw(st.integers(1, 3))):
        place = result
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 3)):
                place = place[key]
                continue
            match draw(st.integers(0, 3)):
                case 0:
                    del place[key]
                case 1:
                    place[key] = place[draw(st.sampled_from(keys))]
                case _:
                    place[key] = draw(values)
            break
    return result
