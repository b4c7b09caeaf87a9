"""Static batches of `transformers`, run as a script by an interpreter that may lack this project.

    python -c "$(cat static.py)" MODEL THREADS BATCH

Reads a JSON list of {"text", "output"} a line and answers each with {"tokens", "seconds"}; the first answer, {}, says
that the model is loaded.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
import transformers


def main(folder: str, threads: int, batch: int) -> None:
    """Answer lines until there are none."""
    torch.set_num_threads(threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    _say({})
    for line in sys.stdin:
        prompts = json.loads(line)
        began = time.perf_counter()
        for start in range(0, len(prompts), batch):
            _generate(model, tokenizer, prompts[start : start + batch])
        tokens = sum(prompt["output"] for prompt in prompts)
        _say({"tokens": tokens, "seconds": time.perf_counter() - began})


def _generate(model: Any, tokenizer: Any, prompts: list[dict[str, Any]]) -> None:
    encoded = tokenizer([prompt["text"] for prompt in prompts], return_tensors="pt", padding=True)
    longest = max(prompt["output"] for prompt in prompts)
    made = model.generate(**encoded, max_new_tokens=longest, do_sample=False, eos_token_id=-1)
    wrote = made.shape[1] - encoded["input_ids"].shape[1]
    if wrote != longest:
        raise RuntimeError(f"{longest} tokens were asked for, {wrote} were made")


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
