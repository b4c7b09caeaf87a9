"""Checkpoints of one process or of thousands: sharded, whole or absent, sealed, written while training goes on.

One mechanism for every world size. Each rank owns some tensors under keys that no other rank uses, and writes them as a
checkpoint of its own (`torch.distributed.checkpoint`, one directory a rank). Nothing is planned or gathered but one
small report a rank, over a tree of bounded width, from which rank 0 makes the sealed manifest; a rename commits. Since
keys name canonical pieces of parameters and not places in a layout, any world reads what any other wrote.
"""

from homegrown.train.checkpoint.checkpoints import DISK, MEMORY, Checkpoints
from homegrown.train.checkpoint.content import MANIFEST, CheckpointError, Manifest, Part, Spec
from homegrown.train.checkpoint.inspection import holds_checkpoints, inspect, locate
from homegrown.train.checkpoint.keys import Key, piece_key
from homegrown.train.checkpoint.loading import Loaded
from homegrown.train.checkpoint.memory import Memory
from homegrown.train.checkpoint.peers import Peers
from homegrown.train.checkpoint.saving import Place, Report
from homegrown.train.checkpoint.simple import Checkpoint, load_checkpoint, load_newest, save_checkpoint
from homegrown.train.checkpoint.store import clean_up, directory, saved_steps

__all__ = [
    "DISK",
    "MANIFEST",
    "MEMORY",
    "Checkpoint",
    "CheckpointError",
    "Checkpoints",
    "Key",
    "Loaded",
    "Manifest",
    "Memory",
    "Part",
    "Peers",
    "Place",
    "Report",
    "Spec",
    "clean_up",
    "directory",
    "holds_checkpoints",
    "inspect",
    "load_checkpoint",
    "load_newest",
    "locate",
    "piece_key",
    "save_checkpoint",
    "saved_steps",
]
