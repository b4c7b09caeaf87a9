"""Replicas of several processes against one process: the same logits, drafts and answers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import homegrown
from homegrown.config import ConfigError
from homegrown.parallel.groups import Groups
from homegrown.serve.engine.engine import Engine
from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.engine.runner import Runner
from homegrown.serve.engine.served import Served
from homegrown.serve.spread.model import SpreadModel, ranks_of
from homegrown.serve.spread.orders import follow, lead
from homegrown.serve.spread.runners import lead_runner, run_along
from homegrown.serve.spread.weights import load_shards
from tests.generate.talker import talker
from tests.model.small import batch, small
from tests.parallel.spawn import spawn
from tests.serve.engine.driving import random_requests, request, run
from tests.serve.engine.hands import Hands, Text
from tests.serve.engine.test_runner import PAGED

EVEN: dict[str, Any] = {"vocab_size": 96, "n_routed_experts": 8, "num_layers": 1}
CONFIGS = {
    "all parts": small(**{**EVEN, "num_layers": 2}),
    "dense attention": small(**EVEN, sparse={"topk": 0}),
    "dense draft": small(**EVEN, mtp={"indexer": False}),
    "drafts with n-grams, before the norm": small(**EVEN, mtp={"use_ngram": True, "chain": "pre_norm"}),
    "paged prompts, no draft block, no zero experts": small(
        **EVEN, sparse=PAGED, mtp={"layers": 0}, zero_expert_num=0, ngram={"order": 0}
    ),
}
EVERY, SOME = list(CONFIGS), ["all parts", "drafts with n-grams, before the norm"]
TWO = {"tp 2": (2, 1, EVERY), "ep 2": (1, 2, SOME), "tp 2, ep 2": (2, 2, SOME[:1])}
FOUR = {"tp 2, ep 4": (2, 4, SOME[1:])}
OPTIONS = EngineOptions(page_size=4, pages=80, chunk=16, step_ms=1e6)
TIGHT = EngineOptions(page_size=8, pages=10, host_pages=9, chunk=16, step_ms=1e6, max_running=6)
ALONE = EngineOptions(page_size=4, pages=80, chunk=16, invariant=True)
INVARIANT = EngineOptions(page_size=8, pages=40, chunk=16, step_ms=1e6, max_running=6, invariant=True)


def mixed(model: Served, runner: Runner | None = None) -> list[np.ndarray]:
    """Logits of texts whose prompts come in random chunks beside generated tokens, one or several at a time; then
    drafts behind greedy texts."""
    config, numbers = model.config, random.Random(5)
    hands = Hands(model, runner=runner, drafts=config.mtp.layers > 0)
    texts, plans = [], []
    for length in (3, 9, 31):
        prompt = numbers.randint(1, length)
        plans.append([(prompt, True)] if prompt < 12 else [(prompt - 11, True), (11, True)])
        plans[-1] += [(1, False)] * (length - prompt)
        texts.append(Text(batch(config, 1, length, seed=length)[0][0].tolist()))
    found = []
    while any(plans):
        chosen = [number for number in range(len(texts)) if plans[number] and numbers.random() < 0.7]
        segments = []
        for number in chosen:
            count, prefill = plans[number].pop(0)
            while not prefill and plans[number] and numbers.random() < 0.5:
                count += plans[number].pop(0)[0]
            segments.append((texts[number], hands.segment(texts[number], count, prefill, wanted=count)))
        if segments:
            found += [logits.numpy() for logits in hands.run(segments)]
    if config.mtp.layers:
        prompts = [Text(batch(config, 1, length, seed=7)[0][0].tolist()) for length in (4, 23)]
        found += [
            np.array([token for drafts in rounds for token in drafts])
            for rounds in hands.speculate(prompts, [12, 32], 3, chunk=16)
        ]
    return found


def answers(model: Served, options: EngineOptions, runner: Runner | None = None, **fields: Any) -> dict[str, list[int]]:
    """What an engine says to requests that come at random times, and make room for each other."""
    requests = [request(f"long {number}", [8 + number], 40, **fields) for number in range(3)]
    requests += random_requests(small(**EVEN), 4, seed=3, most=12, **fields)
    engine = Engine(model, options, runner=runner)
    told = run(engine, requests, seed=3)
    assert (engine.stats().preempted > 0) == (options is TIGHT)
    return {each.id: told.tokens(each.id) for each in requests}


def rows_alone_and_together(model: Served, runner: Runner) -> list[np.ndarray]:
    """Logits of the same generated tokens, each text by itself and then all in one pass, drafts in them."""
    hands, found = Hands(model, runner=runner), []
    for together in (False, True):
        texts = [Text(batch(model.config, 1, 24 + number, seed=number)[0][0].tolist()) for number in range(3)]
        for text in texts:
            hands.prefill(text, 16, stop=20)
        segments = [
            (text, hands.segment(text, number + 1, prefill=False, wanted=number + 1))
            for number, text in enumerate(texts)
        ]
        passes = [segments] if together else [[one] for one in segments]
        found.append(torch.cat([logits for each in passes for logits in hands.run(each)]).numpy())
    return found


def in_a_world(world: Any, folders: dict[str, Path], layouts: dict[str, Any]) -> dict[Any, Any]:
    """Logits of models on layouts; answers where tp = ep."""
    found: dict[Any, Any] = {}
    for layout, (tp, ep, names) in layouts.items():
        for name in names:
            folder = folders[name]
            groups = Groups(ranks_of(CONFIGS[name], tp, ep), world.rank, 60)
            everyone = groups["world"]
            for options in (OPTIONS, TIGHT, INVARIANT, ALONE) if tp == ep else (OPTIONS,):
                dtype = torch.float32 if options is ALONE else torch.float64
                model = SpreadModel(load_shards(folder, groups.layout, world.rank, world.device, dtype), groups)
                if world.rank:
                    run_along(model, options, follow(everyone, lambda: None))
                    continue
                leader = lead(everyone, "127.0.0.1")
                runner = lead_runner(model, options, leader)
                if options is OPTIONS:
                    found[layout, name] = mixed(model, runner)
                elif options is TIGHT:
                    found[layout, "greedy"] = answers(model, options, runner)
                elif options is ALONE:
                    found["alone"], found["together"] = rows_alone_and_together(model, runner)
                else:
                    found[layout, "sampled"] = answers(model, options, runner, temperature=0.8)
                leader.close()
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for number, (name, config) in enumerate(CONFIGS.items()):
        made[name] = tmp_path_factory.mktemp("models") / str(number)
        homegrown.save(talker(config, seed=3, noise=1.0), None, made[name])
    return made


@pytest.fixture(scope="module")
def single(folders: dict[str, Path]) -> dict[str, Any]:
    """What one process makes of it."""
    models = {name: homegrown.load(folder, dtype=torch.float64)[0].eval() for name, folder in folders.items()}
    found: dict[str, Any] = {name: mixed(model) for name, model in models.items()}
    found["greedy"] = answers(models["all parts"], TIGHT)
    found["sampled"] = answers(models["all parts"], INVARIANT, temperature=0.8)
    return found


def check(found: dict[Any, Any], single: dict[str, Any]) -> None:
    for (layout, name), own in found.items():
        true = single[name]
        if isinstance(true, dict):
            assert own == true, (layout, name)
            continue
        assert len(own) == len(true) > 10
        for got, wanted in zip(own, true, strict=True):
            np.testing.assert_allclose(
                got, wanted, rtol=0, atol=1e-10 * np.abs(wanted).max(initial=1.0), err_msg=f"{layout}, {name}"
            )


def test_two_processes_do_what_one_does(folders: dict[str, Path], single: dict[str, Any]) -> None:
    found, _ = spawn(2, in_a_world, folders, TWO)
    assert np.array_equal(found.pop("alone"), found.pop("together")), "batch-invariant mode: the same bits in float32"
    assert len(found) == len(EVERY) + len(SOME) + 3
    check(found, single)


@pytest.mark.slow
def test_four_processes_do_what_one_does(folders: dict[str, Path], single: dict[str, Any]) -> None:
    """Heads over two ranks, rows over all four, experts over all four."""
    found, *_ = spawn(4, in_a_world, folders, FOUR)
    check(found, single)


def test_ranks_are_as_few_as_fit() -> None:
    config = small(**EVEN)
    for tp, ep, world in ((1, 1, 1), (2, 1, 2), (2, 2, 2), (2, 4, 4), (4, 2, 4)):
        layout = ranks_of(config, tp, ep)
        assert (layout.world, layout.tp, layout.ep, layout.dp, layout.pp) == (world, tp, ep, 1, 1)
        assert layout.embp == layout.world
    with pytest.raises(ConfigError, match=r"parallel.tp = 3: must divide model.num_attention_heads = 4"):
        ranks_of(config, 3, 1)
    with pytest.raises(ConfigError, match=r"parallel.ep = 3: must divide model.n_routed_experts = 8"):
        ranks_of(config, 1, 3)
