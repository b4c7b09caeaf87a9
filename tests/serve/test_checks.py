"""Settings out of range are refused, and the message names the field."""

from __future__ import annotations

import math

import pytest

from homegrown.serve.checks import check_format, check_options, check_tools
from homegrown.serve.conversation import Format, Options, Tool, ToolChoice
from homegrown.serve.errors import ApiError
from homegrown.serve.messages import Sampling

GOOD = [
    {"temperature": 0.0}, {"temperature": 2.0}, {"top_p": 1.0}, {"top_k": 5}, {"min_p": 0.1}, {"seed": -1},
    {"presence_penalty": -2.0}, {"repetition_penalty": 1.2}, {"logit_bias": {3: -100.0}}, {"stop_ids": (1, 2)},
    {"min_tokens": 8}, {"logprobs": 20}, {"prompt_logprobs": 0},
]  # fmt: skip
BAD = [
    ({"temperature": 2.1}, "temperature"), ({"temperature": -0.1}, "temperature"),
    ({"temperature": math.nan}, "temperature"),
    ({"top_p": 0.0}, "top_p"), ({"top_p": 1.1}, "top_p"), ({"top_k": -1}, "top_k"), ({"min_p": 2.0}, "min_p"),
    ({"presence_penalty": 2.5}, "presence_penalty"), ({"frequency_penalty": math.inf}, "frequency_penalty"),
    ({"repetition_penalty": 0.0}, "repetition_penalty"), ({"max_tokens": 0}, "max_tokens"),
    ({"min_tokens": 9}, "min_tokens"),
    ({"seed": 2**63}, "seed"), ({"logprobs": 21}, "top_logprobs"), ({"prompt_logprobs": -2}, "prompt_logprobs"),
    ({"logit_bias": {100: 1.0}}, "logit_bias"), ({"logit_bias": {1: math.nan}}, "logit_bias"),
    ({"stop_ids": (100,)}, "stop_token_ids"), ({"stop_ids": (-1,)}, "stop_token_ids"),
]  # fmt: skip


def nested(depth: int) -> dict[str, object]:
    schema: dict[str, object] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def options(fields: dict[str, object], **more: object) -> Options:
    return Options(sampling=Sampling(**{"max_tokens": 8, **fields}), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("fields", GOOD)
def test_good_sampling(fields):
    check_options(options(fields), 100)


@pytest.mark.parametrize(("fields", "param"), BAD)
def test_bad_sampling(fields, param):
    with pytest.raises(ApiError, match=f"^{param} = ") as caught:
        check_options(options(fields), 100)
    assert (caught.value.kind, caught.value.param) == ("invalid", param)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"answers": 0}, "n"),
        ({"answers": 1000}, "n"),
        ({"stop": ("",)}, "stop"),
        ({"stop": ("x",) * 33}, "stop"),
        ({"stop": ("x" * 1001,)}, "stop"),
        ({"stop": ("\ud800",)}, "stop"),
    ],
)
def test_bad_options(more, param):
    with pytest.raises(ApiError) as caught:
        check_options(options({}, **more), 100)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        ((Tool(name=""),), ToolChoice(), "tools[0].name"),
        ((Tool(name="a b"),), ToolChoice(), "tools[0].name"),
        ((Tool(name="a"), Tool(name="a")), ToolChoice(), "tools[1].name"),
        ((Tool(name="a", parameters={"type": "array"}),), ToolChoice(), "tools[0].parameters"),
        ((Tool(name="a"),), ToolChoice(names=("b",)), "tool_choice"),
        ((), ToolChoice(mode="required"), "tool_choice"),
    ],
)
def test_bad_tools(tools, choice, param):
    with pytest.raises(ApiError) as caught:
        check_tools(tools, choice)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "wanted",
    [
        Format(kind="schema"),
        Format(kind="schema", schema={"description": "x" * 600_000}),
        Format(kind="schema", schema=nested(100_000)),
        Format(kind="regex"),
        Format(kind="lark", pattern="x" * 200_000),
    ],
)
def test_bad_formats(wanted):
    with pytest.raises(ApiError) as caught:
        check_format(wanted)
    assert caught.value.param == "response_format"
