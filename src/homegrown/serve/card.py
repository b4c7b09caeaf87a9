"""What is known of a model besides its weights: what lists of models show."""

from __future__ import annotations

from dataclasses import dataclass

from homegrown.serve.errors import ApiError


@dataclass(frozen=True, kw_only=True)
class Prices:
    """US dollars as decimal text; empty where a thing is not priced."""

    prompt: str = ""
    """A token of the prompt."""
    completion: str = ""
    """A token of the answer."""
    cached_prompt: str = ""
    """A token of the prompt that was found in the prefix cache."""
    reasoning: str = ""
    """A token of thinking, where it costs something else than the answer's other tokens."""
    request: str = ""
    """A request, whatever its length."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """A served model.

    Attributes:
        id: what clients call it.
        context_length: most tokens of prompt and answer together.
        max_output: most tokens of an answer.
        name: what people call it; empty: the id.
        aliases: other ids under which clients may ask for it.
        created: unix seconds.
        owned_by: whose it is, as the OpenAI API has it.
        description: a sentence or two.
        quantization: how the weights are stored, in OpenRouter's words (`bf16`, `fp8`, ...).
        hugging_face_id: where the weights are published; empty: nowhere.
        tokenizer: the name of its tokenizer in such lists.
        prices: `None`: it is not sold.
        datacenters: codes of the countries where it runs.
        thinking: whether it reasons when the client does not say.
    """

    id: str
    context_length: int
    max_output: int
    name: str = ""
    aliases: tuple[str, ...] = ()
    created: int = 0
    owned_by: str = "homegrown"
    description: str = ""
    quantization: str | None = None
    hugging_face_id: str = ""
    tokenizer: str = ""
    prices: Prices | None = None
    datacenters: tuple[str, ...] = ()
    thinking: bool = True

    @property
    def title(self) -> str:
        """What people call it."""
        return self.name or self.id

    @property
    def ids(self) -> tuple[str, ...]:
        """All that clients may call it, its own id first."""
        return (self.id, *self.aliases)

    def check(self, model: str) -> None:
        """Refuse a request for another model.

        Raises:
            ApiError: `not_found`.
        """
        if model not in self.ids:
            raise ApiError("not_found", f"There is no model {model[:100]!r} here; there is {self.id!r}.", param="model")
