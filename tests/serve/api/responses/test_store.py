import pytest

from homegrown.serve.api.responses.listing import page
from homegrown.serve.api.responses.store import Store, Stored
from homegrown.serve.errors import ApiError


def stored(text="", previous=None, tenant="t"):
    response = {"previous_response_id": previous, "output": [{"said": f"answer {text}"}]}
    return Stored.of(tenant, response, [{"said": text}])


def missing(store, *arguments):
    with pytest.raises(ApiError) as caught:
        store.get(*arguments)
    return caught.value.kind == "not_found"


def test_what_is_kept_is_found_by_its_owner():
    store = Store()
    store.put("a", stored())
    assert store.get("a", "t") == stored()
    assert missing(store, "a", "other")
    assert missing(store, "b", "t")
    store.delete("a", "t")
    assert missing(store, "a", "t")


def test_a_chain():
    store = Store()
    store.put("a", stored("one"))
    store.put("b", stored("two", previous="a"))
    said = [item["said"] for item in store.chain("b", "t")]
    assert said == ["one", "answer one", "two", "answer two"]
    assert store.chain(None, "t") == []
    store.delete("a", "t")
    with pytest.raises(ApiError) as caught:
        store.chain("b", "t")
    assert caught.value.param == "previous_response_id"


def test_what_was_not_used_for_long_goes():
    now = [0.0]
    store = Store(ttl_s=10, clock=lambda: now[0])
    store.put("a", stored())
    store.put("b", stored())
    now[0] = 8.0
    store.get("a", "t")
    now[0] = 15.0
    assert missing(store, "b", "t")
    assert store.get("a", "t")


def test_the_size_is_bounded():
    store = Store(max_bytes=3 * stored("x").size)
    for name in "abc":
        store.put(name, stored("x"))
    store.get("a", "t")
    store.put("d", stored("x"))
    assert missing(store, "b", "t")
    assert store.get("a", "t") and store.get("c", "t") and store.get("d", "t")
    store.put("e", stored("x" * 10_000))
    assert missing(store, "e", "t")


def test_putting_again_counts_once():
    store = Store(max_bytes=2 * stored("x").size)
    for _ in range(5):
        store.put("a", stored("x"))
    store.put("b", stored("x"))
    assert store.get("a", "t") and store.get("b", "t")


ITEMS = [{"id": str(number)} for number in range(25)]


def test_pages():
    first = page(ITEMS, {})
    assert (first["first_id"], first["last_id"], first["has_more"]) == ("24", "5", True)
    second = page(ITEMS, {"after": "5"})
    assert (second["first_id"], second["last_id"], second["has_more"]) == ("4", "0", False)
    assert [item["id"] for item in page(ITEMS, {"order": "asc", "limit": "2"})["data"]] == ["0", "1"]
    assert page([], {})["data"] == []


@pytest.mark.parametrize("query", [{"order": "up"}, {"limit": "0"}, {"limit": "1000"}, {"limit": "x"}, {"after": "y"}])
def test_wrong_pages(query):
    with pytest.raises(ApiError) as caught:
        page(ITEMS, query)
    assert caught.value.param == next(iter(query))
