"""A model's decoding in C: few rows through all layers in one call (`homegrown.ops.native`).

It computes what the modules compute, in float32 between the products, from the weights where they are. A row's numbers
are the same to the last bit whatever other rows are in the pass, and whatever the number of threads.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from ctypes import c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from homegrown.model.longcat import Longcat, Trunk
from homegrown.model.mtp import Draft
from homegrown.model.nativeweights import Weights, describe, understood
from homegrown.model.router import Routing
from homegrown.model.sparse import IndexInput
from homegrown.ops.native import NativeError, library, team_of
from homegrown.ops.native.structures import PassOf, RowOf

UNSCORED = IndexInput(*(torch.empty(0),) * 3)
"""What a native selection was scored from: nothing that could be learned from."""
DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Keys:
    """Where the rows' keys are.

    Attributes:
        latent: per attention sublayer, cells of L + R numbers each.
        index: per owner sublayer, cells of D numbers each.
        page_size: cells in a page.
        shift: a row's keys are so many places behind its position: 1 in the engine's pages of the draft block, else 0.
    """

    latent: dict[int, Tensor]
    index: dict[int, Tensor]
    page_size: int
    shift: int = 0


@dataclass(frozen=True)
class Rows:
    """Consecutive new rows of one sequence.

    Attributes:
        position: of the first of them.
        count: rows.
        pages: of the sequence, in order.
    """

    position: int
    count: int
    pages: Sequence[int]


class Chosen(NamedTuple):
    """The keys that the draft block's rows attend to.

    Attributes:
        cells: int64 [N, K], contiguous.
        counts: int64 [N]: so many of a row's K; 0 for all keys that it sees.
    """

    cells: Tensor
    counts: Tensor


class NativeModel:
    """The native side of a model. It is right as long as `current`.

    Args:
        model: whose weights are read where they are; it is not kept alive by this.

    Attributes:
        most_rows: that one call takes; more are cut into several.
    """

    def __init__(self, model: Longcat) -> None:
        self._library = library()
        self._weights = Weights(model)
        self._of, self._kept = describe(model, self._weights)
        self._config, self._dtype = model.config, model.dtype
        self.most_rows = int(self._library.native_most_rows())
        self._room = torch.empty(0)
        self._lock = threading.Lock()

    @property
    def current(self) -> bool:
        """Whether the model's tensors are still those that are read. What is written into them is seen."""
        return self._weights.current

    def trunk(self, hidden: Tensor, rows: Sequence[Rows], keys: Keys) -> Trunk:
        """Run embedded rows through all layers, and write their keys.

        Args:
            hidden: [B, S, H], rows in the order of `rows`. A row's earlier ones come first.
            rows: whose they are.
            keys: where keys live.
        """
        flat = hidden.reshape(-1, hidden.shape[-1])
        parts = [self._trunk(flat[at : at + count], part, keys) for at, count, part in self._split(rows)]
        state, output, routing = zip(*parts, strict=True)
        joined = routing[0] if len(parts) == 1 else tuple(_joined(layer) for layer in zip(*routing, strict=True))
        shape = hidden.shape
        return Trunk(_rows(state, self._dtype).view(shape), _rows(output, self._dtype).view(shape), joined, ())

    def draft(
        self, embedded: Tensor, previous: Tensor, rows: Sequence[Rows], keys: Keys, given: Chosen | None = None
    ) -> tuple[Draft, Chosen]:
        """One step of the draft block.

        Args:
            embedded: [B, S, H] the tokens' embeddings.
            previous: [B, S, H] the states that they stand behind.
            rows, keys: as for `trunk`.
            given: what the rows attend to, where an earlier step chose; `None` lets them choose.

        Returns:
            The draft, without a selection; what its rows attended to.
        """
        words, states = (item.reshape(-1, item.shape[-1]) for item in (embedded, previous))
        chosen = self._nothing_chosen(len(words)) if given is None else given
        parts = []
        for at, count, part in self._split(rows):
            hidden = words[at : at + count].to(torch.float32, copy=True, memory_format=torch.contiguous_format)
            before = states[at : at + count].to(torch.float32).contiguous()
            output = torch.empty_like(hidden)
            places = {
                "previous": before.data_ptr(),
                "selected": chosen.cells[at:].data_ptr(),
                "selections": chosen.counts[at:].data_ptr(),
                "widest": chosen.cells.shape[1],
                "given": int(given is not None),
            }
            self._run(self._library.native_draft, hidden, output, part, keys, **places)
            parts.append((hidden, output))
        hidden, output = (_rows(item, self._dtype).view(embedded.shape) for item in zip(*parts, strict=True))
        return Draft(output, output if self._config.mtp.chain == "post_norm" else hidden, None, ()), chosen

    def _nothing_chosen(self, count: int) -> Chosen:
        room = max(self._config.sparse.topk, 1)
        return Chosen(torch.empty(count, room, dtype=torch.int64), torch.zeros(count, dtype=torch.int64))

    def logits(self, output: Tensor) -> Tensor:
        """Unembed final states: [..., H] -> float32 [..., V]."""
        states = output.to(torch.float32).contiguous()
        logits = states.new_empty(*states.shape[:-1], self._config.vocab_size)
        team = team_of(torch.get_num_threads())
        with team.lock:
            count = states.shape[:-1].numel()
            self._library.native_logits(self._of, states.data_ptr(), count, logits.data_ptr(), team.at)
        return logits

    def _split(self, rows: Sequence[Rows]) -> list[tuple[int, int, list[Rows]]]:
        """Parts of at most `most_rows` rows, one after the other: first row, count, whose they are."""
        parts: list[tuple[int, int, list[Rows]]] = []
        at, count, part = 0, 0, list[Rows]()
        for own in rows:
            taken = 0
            while taken < own.count:
                fits = min(own.count - taken, self.most_rows - count)
                part.append(Rows(own.position + taken, fits, own.pages))
                taken, count = taken + fits, count + fits
                if count == self.most_rows:
                    parts.append((at, count, part))
                    at, count, part = at + count, 0, []
        return [*parts, (at, count, part)] if count else parts

    def _trunk(self, embedded: Tensor, rows: Sequence[Rows], keys: Keys) -> tuple[Tensor, Tensor, tuple[Routing, ...]]:
        config, many = self._config, len(embedded)
        choices = config.n_routed_experts + config.zero_expert_num
        hidden = embedded.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        output = torch.empty_like(hidden)
        chosen = torch.empty(config.num_layers, many, config.moe_topk, dtype=torch.int64)
        counts = torch.empty(config.num_layers, choices, dtype=torch.int64)
        gates, prob_sum = torch.empty(chosen.shape), torch.empty(counts.shape)
        made = {"chosen": chosen, "counts": counts, "gates": gates, "prob_sum": prob_sum}
        places = {name: tensor.data_ptr() for name, tensor in made.items()}
        self._run(self._library.native_trunk, hidden, output, rows, keys, **places)
        parts = (item.unbind() for item in (chosen, gates, prob_sum, counts))
        return hidden, output, tuple(map(Routing, *parts))

    def _run(
        self, function: Any, hidden: Tensor, output: Tensor, rows: Sequence[Rows], keys: Keys, **places: int
    ) -> None:
        kept = [(c_int64 * len(own.pages))(*own.pages) for own in rows]
        listed = [
            RowOf(ctypes.addressof(pages), own.position + number)
            for own, pages in zip(rows, kept, strict=True)
            for number in range(own.count)
        ]
        done = PassOf(
            of=ctypes.pointer(self._of),
            rows=(RowOf * len(listed))(*listed),
            many=len(listed),
            page_size=keys.page_size,
            shift=keys.shift,
            latent=_addresses(keys.latent),
            index=_addresses(keys.index),
            hidden=hidden.data_ptr(),
            output=output.data_ptr(),
            **places,
        )
        team = team_of(torch.get_num_threads())
        with self._lock, team.lock:
            needed = self._library.native_room(done, team.at)
            if self._room.numel() < needed:
                self._room = torch.empty(needed)
            done.room = self._room.data_ptr()
            function(done, team.at)


def _addresses(buffers: dict[int, Tensor]) -> c_void_p:
    """Of each slot's buffer, zero where a slot has none."""
    addresses = (c_void_p * (max(buffers, default=0) + 1))()
    for slot, buffer in buffers.items():
        addresses[slot] = buffer.data_ptr()
    return ctypes.cast(addresses, c_void_p)


def _rows(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return (parts[0] if len(parts) == 1 else torch.cat(tuple(parts))).to(dtype)


def _joined(parts: Sequence[Routing]) -> Routing:
    """A layer's routing of several passes."""
    index, gate = (torch.cat([part[field] for part in parts]) for field in (0, 1))
    prob_sum, counts = (torch.stack([part[field] for part in parts]).sum(0) for field in (2, 3))
    return Routing(index, gate, prob_sum, counts)


@cache
def _missing() -> str:
    """Why there is no library; empty if there is one."""
    try:
        library()
    except NativeError as error:
        return str(error)
    return ""


def native_reason(model: nn.Module) -> str:
    """Why a model's few-row passes are PyTorch's; empty if they are native."""
    if not isinstance(model, Longcat):
        return "the model is spread over processes"
    if model.device.type != "cpu" or model.dtype not in DTYPES:
        return f"they are for float32 and bfloat16 on CPUs, not {model.dtype} on {model.device}"
    return understood(model) or _missing()


def native_words(model: nn.Module) -> str:
    """In words, for the lines a run prints at its start: how passes of few rows are computed."""
    reason = native_reason(model)
    return f"PyTorch's operators ({reason})" if reason else "native, one call a pass"


_Kind = tuple[torch.dtype, torch.device]
_models: WeakKeyDictionary[nn.Module, NativeModel | _Kind] = WeakKeyDictionary()
"""Of each model its native side; where there is none, what the model was like when it was looked at."""


def native(model: Any, look: bool = True) -> NativeModel | None:
    """The native side of a model, made anew when its tensors have been replaced; `None` where PyTorch computes.

    Args:
        model: any.
        look: whether to see if tensors have been replaced; not needed where that was just done.
    """
    if not isinstance(model, Longcat):
        return None
    found = _models.get(model)
    if isinstance(found, NativeModel) and (not look or found.current):
        return found
    kind = (model.dtype, model.device)
    if found == kind:
        return None
    made = None if native_reason(model) else NativeModel(model)
    _models[model] = kind if made is None else made
    return made
