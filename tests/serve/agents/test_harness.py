"""lm-evaluation-harness against a real model: its figures are those of the model itself."""

import json

import pytest
import torch

from homegrown.generate import SamplingConfig, complete
from homegrown.serve.engine.engine import Engine
from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.worker.thread import ThreadBackend

from ..tiny import tiny_model, tiny_tokenizer
from .recipes import blocks, command, run
from .stage import stage

DOCUMENTS = [
    {"text": "def f(x):", "good": "\n    return x + 1", "bad": " qq zz é", "answer": "x"},
    {"text": "for i in", "good": " range(10):", "bad": " ###", "answer": "y"},
    {"text": "print(", "good": "f(2))", "bad": "i, 'é')\n", "answer": "z"},
]
COMMON = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {data}}}
test_split: train
target_delimiter: ""
doc_to_text: "{{{{text}}}}"
"""
LIKELIER = """
output_type: multiple_choice
doc_to_choice: "{{[good, bad]}}"
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
WRITTEN = """
output_type: generate_until
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["(", "zz"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def likelihood(model, context, continuation):
    """Of some text behind another, and whether it is what the model itself would write; by the model run directly.

    The tokens are the harness's: those of the context alone, then those of the whole behind as many. Where a token
    reaches across the border, that is not the text (here: documents 0 and 2).
    """
    before, whole = (tiny_tokenizer().encode(text) for text in (context, context + continuation))
    start, ids = len(before), before + whole[len(before) :]
    with torch.inference_mode():
        table = model(torch.tensor([ids]))[0].double().log_softmax(-1)[start - 1 : -1]
    wanted = torch.tensor(ids[start:])
    return float(table.gather(1, wanted[:, None]).sum()), bool((table.argmax(-1) == wanted).all())


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """What the harness wrote down, by task."""
    command("lm_eval")
    folder = tmp_path_factory.mktemp("harness")
    (folder / "tasks").mkdir()
    (folder / "work").mkdir()
    data = folder / "documents.jsonl"
    data.write_text("\n".join(map(json.dumps, DOCUMENTS)))
    for name, rest in (("likelier", LIKELIER), ("written", WRITTEN)):
        (folder / "tasks" / f"{name}.yaml").write_text(COMMON.format(name=name, data=data) + rest)
    (recipe,) = blocks("lm-evaluation-harness", "sh")
    ours = "--tasks likelier,written --include_path ../tasks --output_path out --log_samples"
    assert "--tasks arc_easy" in recipe
    engine = Engine(tiny_model(), EngineOptions(pages=256), tiny_tokenizer())
    with stage(ThreadBackend(engine)) as live:
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        run(recipe.replace("--tasks arc_easy", ours), live.url, folder / "work", offline)
    files = (folder / "work").glob("out/**/samples_*.jsonl")
    found = {file.name.split("_")[1]: [json.loads(line) for line in file.open()] for file in files}
    assert {name: len(lines) for name, lines in found.items()} == {"likelier": 3, "written": 3}
    return found


@pytest.mark.slow
def test_likelihoods(samples):
    model = tiny_model()
    for sample in samples["likelier"]:
        document = sample["doc"]
        for key, ((value, greedy),) in zip(("good", "bad"), sample["resps"], strict=True):
            expected = likelihood(model, document["text"], document[key])
            assert float(value) == pytest.approx(expected[0], abs=2e-3)
            assert str(greedy) == str(expected[1])


@pytest.mark.slow
def test_what_it_has_written(samples):
    model, tokenizer = tiny_model(), tiny_tokenizer()
    for sample in samples["written"]:
        greedily = SamplingConfig(temperature=0.0, max_tokens=12)
        text = complete(model, tokenizer, tokenizer.encode(sample["doc"]["text"]), greedily)
        for stop in ("(", "zz"):
            text = text.partition(stop)[0]
        assert sample["resps"] == [[text]]
