"""The family's special tokens and their ids.

Ids 1 and 2 are fixed by the published models (the n-gram hash stops at id 2); the rest follow in this order.
"""

from __future__ import annotations

UNK = "<longcat_unk>"
BOS = "<longcat_s>"
EOS = "</longcat_s>"
PAD = "<longcat_pad>"

CONTROL_TOKENS = (
    UNK,
    BOS,
    EOS,
    PAD,
    "<longcat_system>",
    "<longcat_user>",
    "<longcat_assistant>",
    "<longcat_observation>",
)
"""Tokens that steer the model and are no part of what it says: `skip_special` leaves them out of decoded text."""

MARKUP_TOKENS = (
    "<longcat_think>",
    "</longcat_think>",
    "<longcat_tool_declare>",
    "</longcat_tool_declare>",
    "<longcat_tool_call>",
    "</longcat_tool_call>",
    "<longcat_arg_key>",
    "</longcat_arg_key>",
    "<longcat_arg_value>",
    "</longcat_arg_value>",
    "<longcat_tool_response>",
    "</longcat_tool_response>",
    "<longcat_files>",
)
"""Tags inside a turn: one id each, but text to whoever parses the answer, so `skip_special` keeps them."""

SPECIAL_TOKENS = CONTROL_TOKENS + MARKUP_TOKENS
"""All of them; the index is the id in the tokenizers that Homegrown trains."""
