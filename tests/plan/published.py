"""Shapes of published models, written from their papers, for tests that need one."""

from homegrown.plan.facts import Attention, Experts, Layers, Shape


def gpt(hidden: int, heads: int, layers: int, vocab: int = 51200) -> Shape:
    """GPT as Megatron trains it (arXiv 2104.04473, 2205.05198): learned positions, biases, dropout, tied embedding."""
    attention = Attention(kind="gqa", heads=heads, kv_heads=heads, query=hidden // heads, value=hidden // heads)
    group = Layers(count=layers, attention=attention, dense=(4 * hidden,))
    return Shape(
        name="gpt", title="GPT", hidden=hidden, vocab=vocab, layers=(group,), positions=2048, gated=False, bias=True,
        tied=True, dropout=True,
    )  # fmt: skip


KORTHIKANTI = {
    "22B": gpt(6144, 64, 48),
    "175B": gpt(12288, 96, 96),
    "530B": gpt(20480, 128, 105),
    "1T": gpt(25600, 160, 128),
}
"""arXiv 2205.05198 table 3."""


def llama(hidden: int, layers: int, heads: int, width: int) -> Shape:
    """Llama 3 (arXiv 2407.21783 table 3)."""
    attention = Attention(kind="gqa", heads=heads, kv_heads=8, query=128, value=128)
    group = Layers(count=layers, attention=attention, dense=(width,))
    return Shape(name="llama", title="Llama", hidden=hidden, vocab=128256, layers=(group,))


LLAMA_70B, LLAMA_405B = llama(8192, 80, 64, 28672), llama(16384, 126, 128, 53248)

_MLA = {"query": 192, "value": 128, "q_lora": 1536, "kv_lora": 512, "rope": 64}


def _deepseek(heads: int, routed: int, dense: int, vocab: int, draft: bool) -> Shape:
    attention = Attention(kind="mla", heads=heads, kv_heads=heads, **_MLA)
    experts = Experts(routed=routed, topk=8, width=2048, real=8, shared=2048)
    mixture = Layers(count=61 - dense, attention=attention, experts=experts)
    first = Layers(count=dense, attention=attention, dense=(18432,))
    return Shape(
        name="deepseek", title="DeepSeek", hidden=7168, vocab=vocab, layers=(first, mixture),
        draft=Layers(count=1, attention=attention, experts=experts) if draft else None, draft_steps=int(draft),
    )  # fmt: skip


DEEPSEEK_V3 = _deepseek(128, 256, 3, 129280, draft=True)
"""arXiv 2412.19437 section 4.2."""
KIMI_K2 = _deepseek(64, 384, 1, 163840, draft=False)
"""arXiv 2507.20534 table 2."""


def qwen_moe(hidden: int, layers: int, heads: int, width: int) -> Shape:
    """Qwen3 MoE (arXiv 2505.09388 table 2)."""
    attention = Attention(kind="gqa", heads=heads, kv_heads=4, query=128, value=128)
    experts = Experts(routed=128, topk=8, width=width, real=8, biases=0)
    group = Layers(count=layers, attention=attention, experts=experts)
    return Shape(name="qwen", title="Qwen", hidden=hidden, vocab=151936, layers=(group,))


QWEN_235B, QWEN_30B = qwen_moe(4096, 94, 64, 1536), qwen_moe(2048, 48, 32, 768)
