"""Shapes of published models against the parameters that their authors published, counted here once more."""

import pytest

from homegrown.config import ConfigError
from homegrown.plan.catalogue import Catalogue
from homegrown.plan.facts import Attention, Layers, Shape
from homegrown.plan.models import read_model
from homegrown.plan.reading import Entry

CATALOGUE = Catalogue.load()
LOOSE = {"telechat2-115b": 0.02, "kimi-k2": 0.015, "megatron-1.7b": 0.03, "megatron-32b": 0.02, "gpt-1.7b": 0.03}
"""Where the published number is rounded to so few digits, or counts more; elsewhere 1.2 % hold."""
ROUGH_ACTIVE = 0.06
"""Published numbers of active parameters are rounded, and differ in whether they count embeddings."""


def attention_weights(a: Attention, hidden: int) -> int:
    """Matrices of one attention sublayer, from the papers' equations."""
    if a.kind == "gqa":
        return hidden * a.heads * a.query + hidden * a.kv_heads * (a.query + a.value) + a.heads * a.value * hidden
    nope = a.query - a.rope
    queries = hidden * a.q_lora + a.q_lora * a.heads * a.query if a.q_lora else hidden * a.heads * a.query
    return queries + hidden * (a.kv_lora + a.rope) + a.kv_lora * a.heads * (nope + a.value) + a.heads * a.value * hidden


def layer_weights(group: Layers, shape: Shape, *, active: bool) -> int:
    matrices = 3 if shape.gated else 2
    total = group.sublayers * attention_weights(group.attention, shape.hidden)
    total += sum(matrices * shape.hidden * width for width in group.dense)
    if group.experts is not None:
        number = group.experts.topk if active else group.experts.routed
        total += matrices * shape.hidden * (number * group.experts.width + group.experts.shared)
        total += shape.hidden * group.experts.routed
    return total


def weights(shape: Shape, *, active: bool = False) -> int:
    """Matrices of a model without its draft head; norms and biases are below a thousandth."""
    layers = sum(group.count * layer_weights(group, shape, active=active) for group in shape.layers)
    return layers + shape.vocab * shape.hidden * (1 if shape.tied else 2) + shape.positions * shape.hidden


@pytest.mark.parametrize("name", CATALOGUE.models.things)
def test_parameters_are_the_published_ones(name):
    published = CATALOGUE.published(name)
    assert published is not None
    counted = weights(CATALOGUE.shape(name))
    assert counted == pytest.approx(published.total, rel=LOOSE.get(name, 0.012)), f"{counted / 1e9:.2f}B"


@pytest.mark.parametrize("name", [name for name, m in CATALOGUE.models.things.items() if m.published.active])
def test_active_parameters_are_the_published_ones(name):
    shape = CATALOGUE.shape(name)
    both = weights(shape, active=True)
    published = CATALOGUE.published(name).active
    least = both - 2 * shape.vocab * shape.hidden  # some count no embedding, some one of the two, some both
    assert least * (1 - ROUGH_ACTIVE) <= published <= both * (1 + ROUGH_ACTIVE), f"{least / 1e9:.2f}..{both / 1e9:.2f}B"


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        # Totals of the published checkpoints, norms and biases included.
        ("llama-3.1-405b", 405_853_388_800),
        ("llama-3-70b", 70_553_706_496),
        ("llama-2-7b", 6_738_415_616),
        ("mixtral-8x7b", 46_702_792_704),
    ],
)
def test_checkpoints_are_met_but_for_their_norms(name, exact):
    shape = CATALOGUE.shape(name)
    norms = (2 * shape.depth + 1) * shape.hidden
    assert weights(shape) + norms == exact


def test_korthikanti_models_follow_the_formula_of_narayanan():
    for name in ("gpt-22b", "gpt-175b", "gpt-530b", "gpt-1t"):
        shape = CATALOGUE.shape(name)
        l, h, v, s = shape.depth, shape.hidden, shape.vocab, shape.positions  # noqa: E741
        formula = 12 * l * h**2 * (1 + 13 / (12 * h) + (v + s) / (12 * l * h))
        assert weights(shape) == pytest.approx(formula, rel=3e-4)
        assert [group.attention.bias for group in shape.layers] == [False], "Shape.bias covers all linear maps"


def test_other_names():
    assert CATALOGUE.shape("Llama 3.3 70B") is CATALOGUE.shape("llama-3-70b")
    assert CATALOGUE.shape("MT-NLG") is CATALOGUE.shape("gpt-530b")
    assert CATALOGUE.shape("DeepSeek V3").draft_steps == 1


GOOD = {
    "title": "Mine",
    "source": "here",
    "hidden": 64,
    "vocab": 100,
    "attention": {"kind": "gqa", "heads": 4, "kv_heads": 2, "query": 16, "value": 16},
    "layers": [{"count": 2, "dense": [128]}],
}


def read(**changes):
    table = {key: value for key, value in (GOOD | changes).items() if value is not None}
    return read_model("mine", Entry(table, "models/mine.toml: mine"))


def test_good_model_is_read():
    shape = read(published={"total": "88K", "active": "80K"}).shape
    assert (shape.depth, shape.hidden, shape.layers[0].attention.kv_heads) == (2, 64, 2)
    many = read(attention={"kind": "gqa", "heads": 4, "query": 16, "value": 16}).shape
    assert many.layers[0].attention.kv_heads == 4, "as many as query heads unless said"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden": None}, ["'hidden' is missing", "whole number"]),
        ({"hidden": 0}, ["hidden = 0", "at least 1"]),
        ({"hidden": -64}, ["hidden = -64"]),
        ({"hidden": 64.5}, ["hidden = 64.5", "whole number"]),
        ({"hiden": 64}, ["unknown key 'hiden'", "did you mean 'hidden'"]),
        ({"layers": []}, ["'layers' is missing"]),
        ({"layers": [{"count": 2}]}, ["'dense' is missing", "layers[0]"]),
        ({"layers": [{"dense": [128]}]}, ["'count' is missing"]),
        ({"layers": [{"count": 2, "dense": [0]}]}, ["dense = [0]", "widths"]),
        ({"layers": [{"count": 2, "dense": 128}]}, ["dense = 128", "list of widths"]),
        ({"attention": None}, ["'attention' is missing"]),
        ({"attention": {"kind": "gqa", "heads": 4, "query": 16}}, ["attention", "'value' is missing"]),
        (
            {"attention": {"kind": "gqa", "heads": 4, "kv_heads": 3, "query": 16, "value": 16}},
            ["kv_heads = 3", "divide the 4 heads"],
        ),
        ({"attention": {"kind": "mqa", "heads": 4, "query": 16, "value": 16}}, ["kind"]),
        (
            {"attention": {"kind": "mla", "heads": 4, "query": 16, "value": 16, "rope": 4}},
            ["mla needs kv_lora"],
        ),
        (
            {"attention": {"kind": "mla", "heads": 4, "query": 16, "value": 16, "rope": 16, "kv_lora": 8}},
            ["rope lanes that are part of query = 16"],
        ),
        (
            {"attention": {"kind": "gqa", "heads": 4, "query": 16, "value": 16, "kv_lora": 8}},
            ["belong to kind = 'mla'"],
        ),
        (
            {"layers": [{"count": 2, "experts": {"routed": 8, "topk": 9, "width": 32}}]},
            ["topk = 9", "8 experts"],
        ),
        (
            {"layers": [{"count": 2, "experts": {"routed": 8, "topk": 2, "width": 32, "real": 1.5}}]},
            ["real = 1.5", "zero-computation"],
        ),
        ({"layers": [{"count": 2, "experts": {"routed": 8, "topk": 2}}]}, ["'width' is missing"]),
        ({"layers": [{"count": 2, "experts": {"routed": 8, "topk": 2, "width": 32, "shard": 1}}]}, ["'shard'"]),
        ({"draft_steps": 1}, ["draft_steps = 1", "draft head"]),
        ({"published": {"total": "1B", "active": "2B"}}, ["active", "not be more than all"]),
        ({"published": {"total": "1B"}}, ["published.total = 1\u202fB", "contradicts the sizes", "86.8\u202fk"]),
        ({"published": {"active": "2B"}}, ["'total' is missing"]),
        ({"tied": "yes"}, ["tied = 'yes'", "true or false"]),
    ],
)
def test_bad_models_are_refused_in_a_sentence(changes, words):
    with pytest.raises(ConfigError) as error:
        read(**changes)
    text = str(error.value)
    assert "models/mine.toml" in text
    for word in words:
        assert word in text
