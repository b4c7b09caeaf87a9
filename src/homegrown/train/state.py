"""A single process's training state under the keys of checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from homegrown.train.checkpoint.keys import piece_key, router_key

_ROUTER = re.compile(r"layers\.(\d+)\.mlp\.router\.e_score_correction_bias")


def checkpoint_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `Stepper.state_dict()`, the same memory, by the keys that checkpoints use.

    Parameters are stored as masters: weights that are rounded images of a float32 master are left out, and come back
    when the state is loaded.
    """
    weights = {name.removeprefix("model/"): tensor for name, tensor in state.items() if name.startswith("model/")}
    stored: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        router = _ROUTER.fullmatch(name)
        if router:
            stored[router_key(int(router[1]))] = tensor
        elif f"optimizer/{name}/master" not in state:
            stored[piece_key(name, 0, len(tensor), "master")] = tensor
    for path, tensor in state.items():
        part, _, rest = path.partition("/")
        if part == "optimizer":
            name, _, kind = rest.rpartition("/")
            stored[piece_key(name, 0, len(weights[name]), kind)] = tensor
        elif part == "guard":
            stored[path] = tensor
    return stored
