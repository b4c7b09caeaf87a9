"""Content blocks as text, for a model that reads nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from homegrown.serve.api.anthropic.schema import (
    Blocks,
    CompactionBlock,
    DocumentBlock,
    SearchResultBlock,
    TextBlock,
    ToolChangeBlock,
    ToolReferenceBlock,
)
from homegrown.serve.api.body import convert
from homegrown.serve.errors import ApiError

BILLING = "x-anthropic-billing-header"
"""How a line begins that names a request for its sender's books. It is no part of the prompt: it may change with every
request, and all that follows it would then be computed anew."""


def joined(parts: Iterable[str]) -> str:
    """Texts that stood in blocks of their own, apart by an empty line, as paragraphs are."""
    return "\n\n".join(part for part in parts if part)


def system_text(content: str | Blocks | None, where: str) -> str:
    """A system prompt without the lines that are not meant for the model."""
    return joined(_without_billing(text) for text in texts(content, where))


def texts(content: str | Blocks | None, where: str) -> Iterator[str]:
    """The text of each block that has one; blocks of unknown types are skipped.

    Raises:
        ApiError: `invalid`: a block lacks what its type must have.
    """
    if isinstance(content, str):
        yield content
        return
    for index, block in enumerate(content or ()):
        text = block_text(block, f"{where}[{index}]")
        if text is not None:
            yield text


def kind_of(block: dict[str, Any], where: str) -> str:
    """The type of a block.

    Raises:
        ApiError: `invalid`: it has none.
    """
    kind = block.get("type")
    if not isinstance(kind, str):
        raise ApiError("invalid", f"`{where}.type` must be the type of a content block.", param=f"{where}.type")
    return kind


def block_text(block: dict[str, Any], where: str) -> str | None:
    """A block as the model reads it, or None where there is nothing to read.

    What the model cannot read leaves a note rather than an error: a picture that a tool returned would otherwise end
    an agent's whole session, for it comes again with every request.
    """
    match kind_of(block, where):
        case "text":
            return convert(block, TextBlock, where).text
        case "image":
            return "[An image was left out: this model reads text only.]"
        case "document":
            return _document(convert(block, DocumentBlock, where), where)
        case "search_result":
            found = convert(block, SearchResultBlock, where)
            return joined((found.title or "", found.source or "", *texts(found.content, f"{where}.content")))
        case "tool_reference":
            return f"[Tool found: {convert(block, ToolReferenceBlock, where).tool_name}]"
        case "tool_addition":
            return f"[From here on there is the tool {_changed(block, where)}.]"
        case "tool_removal":
            return f"[From here on the tool {_changed(block, where)} must not be used.]"
        case "compaction":
            return convert(block, CompactionBlock, where).content
    return None


def changed_tool(block: dict[str, Any], where: str) -> dict[str, Any]:
    """The tool that a `tool_addition` or `tool_removal` is about: its definition, or as much of it as is given."""
    tool = convert(block, ToolChangeBlock, where).tool
    definition = tool.get("definition")
    return definition if isinstance(definition, dict) else tool


def _changed(block: dict[str, Any], where: str) -> str:
    tool = changed_tool(block, where)
    return str(tool.get("name") or tool.get("server_name") or "")


def _document(document: DocumentBlock, where: str) -> str:
    source = document.source
    content = source.get("data") if source.get("type") == "text" else source.get("content")
    if isinstance(content, str):
        text = content
    elif isinstance(content, list) and all(isinstance(block, dict) for block in content):
        text = joined(texts(content, f"{where}.source.content"))
    else:
        text = "[A document was left out: this model reads plain text only.]"
    return joined((document.title or "", document.context or "", text))


def _without_billing(text: str) -> str:
    if BILLING not in text[: len(BILLING) + 16].lower():
        return text
    return "\n".join(line for line in text.split("\n") if not line.strip().lower().startswith(BILLING)).strip("\n")
