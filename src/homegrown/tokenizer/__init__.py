"""Byte-level BPE: training, encoding, streaming detokenizer, chat templates. Imports no torch."""

from homegrown.tokenizer.errors import TokenizerError
from homegrown.tokenizer.special import CONTROL_TOKENS, MARKUP_TOKENS, SPECIAL_TOKENS
from homegrown.tokenizer.stream import TokenStream
from homegrown.tokenizer.template import CHAT_TEMPLATE
from homegrown.tokenizer.tokenizer import Tokenizer
from homegrown.tokenizer.training import MIN_VOCAB, train_tokenizer

__all__ = [
    "CHAT_TEMPLATE",
    "CONTROL_TOKENS",
    "MARKUP_TOKENS",
    "MIN_VOCAB",
    "SPECIAL_TOKENS",
    "TokenStream",
    "Tokenizer",
    "TokenizerError",
    "train_tokenizer",
]
