"""The LongCat family once more, slowly: float64, one document at a time, loops where loops are clearest.

Written from the papers' formulas alone (arXiv 2509.01322, 2601.21204, 2608.01662), it imports nothing of the model it
judges but the configuration. A packed row is cut into its documents and each runs as a sequence of its own, so that
whatever crosses a document boundary in the real model shows as a difference. Weights are a dict from parameter name
to float64 tensor; everything is differentiable by autograd except the choices of experts and keys.

Shapes: S tokens of one document, H hidden, V vocabulary, h heads, E routed and Z zero experts, K experts per token.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from homegrown.config import ModelConfig, RopeConfig

Weights = dict[str, Tensor]


# --- parameters -----------------------------------------------------------------------------------------------------


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model, the selection bias of the router included."""
    V, H = config.vocab_size, config.hidden_size
    E, Z, F = config.n_routed_experts, config.zero_expert_num, config.expert_ffn_hidden_size
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (V, H), "norm.weight": (H,), "lm_head.weight": (V, H)}
    if config.ngram.order:
        tables = config.ngram.tables
        shapes["ngram_embeddings.table"] = (sum(moduli(config)), H // tables)
        shapes["ngram_embeddings.proj"] = (tables, H, H // tables)
    for layer in range(config.num_layers):
        here = f"layers.{layer}"
        for i in (0, 1):
            shapes[f"{here}.input_layernorm.{i}.weight"] = (H,)
            shapes[f"{here}.post_attention_layernorm.{i}.weight"] = (H,)
            shapes |= _attention_shapes(config, f"{here}.self_attn.{i}", owner=is_owner(config, 2 * layer + i))
            shapes |= _swiglu_shapes(config, f"{here}.mlps.{i}")
        shapes[f"{here}.mlp.router.classifier.weight"] = (E + Z, H)
        if config.router_bias:
            shapes[f"{here}.mlp.router.classifier.bias"] = (E + Z,)
        shapes[f"{here}.mlp.router.e_score_correction_bias"] = (E + Z,)
        shapes[f"{here}.mlp.experts.gate_up_proj"] = (E, 2, F, H)
        shapes[f"{here}.mlp.experts.down_proj"] = (E, H, F)
    if config.mtp.layers:
        here = "mtp.layers.0"
        shapes[f"{here}.eh_proj.weight"] = (H, 2 * H)
        for name in ("enorm", "hnorm", "input_layernorm", "post_attention_layernorm"):
            shapes[f"{here}.{name}.weight"] = (H,)
        owner = config.sparse.topk > 0 and config.mtp.indexer
        shapes |= _attention_shapes(config, f"{here}.self_attn", owner=owner)
        shapes |= _swiglu_shapes(config, f"{here}.mlp")
        shapes["mtp.norm.weight"] = (H,)
    return shapes


def _attention_shapes(config: ModelConfig, here: str, owner: bool) -> dict[str, tuple[int, ...]]:
    H, h, rq, rc = config.hidden_size, config.num_attention_heads, config.q_lora_rank, config.kv_lora_rank
    dn, dr, dv = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
    shapes: dict[str, tuple[int, ...]] = {
        f"{here}.q_a_proj.weight": (rq, H),
        f"{here}.q_a_layernorm.weight": (rq,),
        f"{here}.q_b_proj.weight": (h * (dn + dr), rq),
        f"{here}.kv_a_proj_with_mqa.weight": (rc + dr, H),
        f"{here}.kv_a_layernorm.weight": (rc,),
        f"{here}.kv_b_proj.weight": (h * (dn + dv), rc),
        f"{here}.o_proj.weight": (H, h * dv),
    }
    if owner:
        Hi, di = config.sparse.heads, config.sparse.head_dim
        shapes[f"{here}.indexer.wq_b.weight"] = (Hi * di, rq)
        shapes[f"{here}.indexer.wk.weight"] = (di, H)
        shapes[f"{here}.indexer.weights_proj.weight"] = (Hi, H)
        shapes[f"{here}.indexer.k_norm.weight"] = (di,)
        if config.sparse.k_norm == "layer":
            shapes[f"{here}.indexer.k_norm.bias"] = (di,)
    return shapes


def _swiglu_shapes(config: ModelConfig, here: str) -> dict[str, tuple[int, ...]]:
    H, F = config.hidden_size, config.ffn_hidden_size
    return {
        f"{here}.gate_proj.weight": (F, H),
        f"{here}.up_proj.weight": (F, H),
        f"{here}.down_proj.weight": (H, F),
    }


def random_weights(config: ModelConfig, seed: int, scale: float = 1.0) -> Weights:
    """Float32-representable float64 weights that keep activations near one and every nonlinearity at work."""
    generator = torch.Generator().manual_seed(seed)
    choices = config.n_routed_experts + config.zero_expert_num
    weights = {}
    for name, shape in parameter_shapes(config).items():
        value = torch.randn(shape, generator=generator, dtype=torch.float32)
        if name.endswith("e_score_correction_bias"):
            value = value / choices
        elif name.endswith(".bias"):
            value = 0.1 * value
        elif len(shape) == 1:
            value = 1 + 0.1 * value
        elif name not in ("embed_tokens.weight", "ngram_embeddings.table"):
            value = scale * value / math.sqrt(shape[-1])
        weights[name] = value.double()
    return weights


def is_owner(config: ModelConfig, sublayer: int) -> bool:
    """Whether attention sublayer `sublayer` = 2l + i holds an indexer (the others reuse the owner's selection)."""
    return config.sparse.topk > 0 and sublayer % config.sparse.share == 0


# --- n-gram embedding (arXiv 2601.21204 eq. 2) ----------------------------------------------------------------------


def moduli(config: ModelConfig) -> list[int]:
    """Rows of each n-gram table."""
    base = int(config.ngram.ratio * config.vocab_size)
    return [base + 2 * t + 1 for t in range(config.ngram.tables)]


def ngram_ids(config: ModelConfig, tokens: list[int]) -> list[list[int]]:
    """ids[i][t]: the row of table t that position i reads. Unbounded Python integers: no power is ever reduced."""
    V, k = config.vocab_size, config.ngram.splits
    ids = []
    for i in range(len(tokens)):
        row = []
        for t, modulus in enumerate(moduli(config)):
            order = t // k + 2
            total = tokens[i]
            for back in range(1, order):
                if i - back < 0 or (config.ngram.stop_at_eos and tokens[i - back] == config.eos_token_id):
                    break
                total += tokens[i - back] * V**back
            row.append(total % modulus)
        ids.append(row)
    return ids


def embed(weights: Weights, config: ModelConfig, tokens: list[int]) -> Tensor:
    """Fused embedding of every position, [S, H]."""
    word = weights["embed_tokens.weight"]
    if not config.ngram.order:
        return torch.stack([word[token] for token in tokens])
    table, proj = weights["ngram_embeddings.table"], weights["ngram_embeddings.proj"]
    offsets = [sum(moduli(config)[:t]) for t in range(config.ngram.tables)]
    terms = 1 + config.ngram.tables
    rows = []
    for token, ids in zip(tokens, ngram_ids(config, tokens), strict=True):
        hashed = sum(proj[t] @ table[offsets[t] + ids[t]] for t in range(config.ngram.tables))
        if config.ngram.fusion == "mean":
            rows.append((word[token] + hashed) / terms)
        else:
            rows.append(word[token] + hashed / terms)
    return torch.stack(rows)


# --- small pieces ---------------------------------------------------------------------------------------------------


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return weight * centred / torch.sqrt((centred * centred).mean(-1, keepdim=True) + eps) + bias


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    g = x @ gate.T
    return (g / (1 + torch.exp(-g)) * (x @ up.T)) @ down.T


def dense_ffn(weights: Weights, here: str, x: Tensor) -> Tensor:
    names = ("gate_proj", "up_proj", "down_proj")
    return swiglu(x, *(weights[f"{here}.{name}.weight"] for name in names))


# --- rotary positions -----------------------------------------------------------------------------------------------


def mscale(factor: float, alpha: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * alpha * math.log(factor) + 1.0


def yarn_bounds(rope: RopeConfig, dim: int) -> tuple[float, float]:
    """First and last pair of the blend between original and interpolated frequencies."""

    def correction(rotations: float) -> float:
        return dim * math.log(rope.original_max_position / (2 * math.pi * rotations)) / (2 * math.log(rope.theta))

    low, high = max(math.floor(correction(rope.beta_fast)), 0), min(math.ceil(correction(rope.beta_slow)), dim - 1)
    return low, high + 0.001 if high == low else high


def inverse_frequencies(rope: RopeConfig, dim: int) -> list[float]:
    plain = [rope.theta ** (-2 * i / dim) for i in range(dim // 2)]
    if rope.type == "none":
        return plain
    low, high = yarn_bounds(rope, dim)
    ramps = [min(max((i - low) / (high - low), 0.0), 1.0) for i in range(dim // 2)]
    return [ramp * inv / rope.factor + (1 - ramp) * inv for ramp, inv in zip(ramps, plain, strict=True)]


def table_gain(rope: RopeConfig) -> float:
    """Factor on cos and sin."""
    if rope.type == "none":
        return 1.0
    return mscale(rope.factor, rope.mscale) / mscale(rope.factor, rope.mscale_all_dim)


def softmax_scale(config: ModelConfig) -> float:
    scale = (config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5
    if config.rope.type == "yarn":
        scale *= mscale(config.rope.factor, config.rope.mscale_all_dim) ** 2
    return scale


def rotate(x: Tensor, config: ModelConfig, interleaved: bool = True) -> Tensor:
    """Rotate rows `x` [..., S, dr] to positions 0 to S - 1: pair i by the angle position · inv_i."""
    S, dim = x.shape[-2:]
    inverse = torch.tensor(inverse_frequencies(config.rope, dim), dtype=x.dtype)
    angles = torch.arange(S, dtype=x.dtype)[:, None] * inverse
    cos, sin = table_gain(config.rope) * torch.cos(angles), table_gain(config.rope) * torch.sin(angles)
    lanes = torch.arange(dim)
    firsts, seconds = (lanes[0::2], lanes[1::2]) if interleaved else (lanes[: dim // 2], lanes[dim // 2 :])
    rotated = torch.empty_like(x)
    rotated[..., firsts] = x[..., firsts] * cos - x[..., seconds] * sin
    rotated[..., seconds] = x[..., seconds] * cos + x[..., firsts] * sin
    return rotated


# --- attention ------------------------------------------------------------------------------------------------------


def query_latent(weights: Weights, config: ModelConfig, here: str, x: Tensor) -> Tensor:
    latent = x @ weights[f"{here}.q_a_proj.weight"].T
    return rms_norm(latent, weights[f"{here}.q_a_layernorm.weight"], config.latent_norm_eps)


def attention(weights: Weights, config: ModelConfig, here: str, x: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Multi-head latent attention, latents expanded. Returns the output [S, H] and the probabilities [h, S, S]."""
    H, h, rc = config.hidden_size, config.num_attention_heads, config.kv_lora_rank
    dn, dr, dv = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
    q = query_latent(weights, config, here, x) @ weights[f"{here}.q_b_proj.weight"].T
    if config.mla_scale_q_lora:
        q = q * math.sqrt(H / config.q_lora_rank)
    down = x @ weights[f"{here}.kv_a_proj_with_mqa.weight"].T
    latent = rms_norm(down[:, :rc], weights[f"{here}.kv_a_layernorm.weight"], config.latent_norm_eps)
    if config.mla_scale_kv_lora:
        latent = latent * math.sqrt(H / rc)
    kv = latent @ weights[f"{here}.kv_b_proj.weight"].T
    key_rope = rotate(down[:, rc:], config)
    outputs, probabilities = [], []
    for head in range(h):
        query = q[:, head * (dn + dr) : (head + 1) * (dn + dr)]
        key_value = kv[:, head * (dn + dv) : (head + 1) * (dn + dv)]
        scores = query[:, :dn] @ key_value[:, :dn].T + rotate(query[:, dn:], config) @ key_rope.T
        scores = (scores * softmax_scale(config)).masked_fill(~allowed, -math.inf)
        p = torch.softmax(scores, -1)
        outputs.append(p @ key_value[:, dn:])
        probabilities.append(p)
    return torch.cat(outputs, -1) @ weights[f"{here}.o_proj.weight"].T, torch.stack(probabilities)


def causal(S: int) -> Tensor:
    return torch.tensor([[s <= t for s in range(S)] for t in range(S)])


# --- LongCat sparse attention (arXiv 2608.01662) --------------------------------------------------------------------


@dataclass
class Index:
    """What one indexer computed."""

    q: Tensor  # [Hi, S, di]
    k: Tensor  # [S, di]
    w: Tensor  # [S, Hi]

    def scores(self) -> Tensor:
        """I[t, s] for all pairs, causal or not."""
        return sum((self.w[:, j, None] * (self.q[j] @ self.k.T).clamp(min=0)) for j in range(self.w.shape[1]))  # type: ignore[return-value]


def index(weights: Weights, config: ModelConfig, here: str, x: Tensor) -> Index:
    """Indexer of one owner. Its inputs are detached: it learns from its own loss only."""
    sparse, dr = config.sparse, config.qk_rope_head_dim
    qlat = query_latent(weights, config, here, x).detach()
    x = x.detach()

    def partly_rotated(rows: Tensor) -> Tensor:
        return torch.cat([rotate(rows[..., :dr], config, sparse.rope_interleaved), rows[..., dr:]], -1)

    q = qlat @ weights[f"{here}.indexer.wq_b.weight"].T
    k = x @ weights[f"{here}.indexer.wk.weight"].T
    norm = weights[f"{here}.indexer.k_norm.weight"]
    if sparse.k_norm == "rms":
        k = rms_norm(k, norm, sparse.k_norm_eps)
    else:
        k = layer_norm(k, norm, weights[f"{here}.indexer.k_norm.bias"], sparse.k_norm_eps)
    w = x @ weights[f"{here}.indexer.weights_proj.weight"].T
    if sparse.scale_scores:
        w = w * sparse.heads**-0.5 * sparse.head_dim**-0.5
    heads = torch.stack(q.split(sparse.head_dim, dim=-1))
    return Index(q=partly_rotated(heads), k=partly_rotated(k), w=w)


def select(config: ModelConfig, index: Index, owner: int) -> Tensor:
    """S_t of every query as a boolean matrix [S, S]. `owner` counts the indexers of the model from 0."""
    sparse = config.sparse
    scores = index.scores().detach().tolist()
    S = len(scores)
    allowed = torch.zeros(S, S, dtype=torch.bool)
    for t in range(S):
        fixed = {s for s in range(t + 1) if s < sparse.init_tokens or s > t - sparse.local_tokens}
        others = [s for s in range(t + 1) if s not in fixed]
        if uses_pages(config, owner, visible=t + 1):
            pages = best_pages(config, index, t)
            others = [s for s in others if s // sparse.page_size in pages]
        best = sorted(others, key=lambda s: (-scores[t][s], s))[: sparse.topk - len(fixed)]
        allowed[t, sorted(fixed) + best] = True
    return allowed


def uses_pages(config: ModelConfig, owner: int, visible: int) -> bool:
    sparse = config.sparse
    return sparse.hierarchical and owner >= sparse.hierarchical_skip_owners and visible >= sparse.hierarchical_threshold


def best_pages(config: ModelConfig, index: Index, t: int) -> set[int]:
    """Pages whose block means score best for query t. The page that t sees in part is not ranked: the window has it."""
    sparse = config.sparse
    ranked = []
    for page in range((t + 1) // sparse.page_size):
        score = 0.0
        for start in range(page * sparse.page_size, (page + 1) * sparse.page_size, sparse.page_block):
            mean = index.k[start : start + sparse.page_block].mean(0)
            score += float(sum(index.w[t, j] * (index.q[j, t] @ mean).clamp(min=0) for j in range(sparse.heads)))
        ranked.append((-score, page))
    return {page for _, page in sorted(ranked)[: sparse.page_topk]}


# --- mixture of experts ---------------------------------------------------------------------------------------------


@dataclass
class Routing:
    """What one router decided."""

    probs: Tensor  # [S, E + Z]
    chosen: list[list[int]]  # S lists of K experts


def route(weights: Weights, config: ModelConfig, here: str, x: Tensor) -> Routing:
    logits = x @ weights[f"{here}.router.classifier.weight"].T
    if config.router_bias:
        logits = logits + weights[f"{here}.router.classifier.bias"]
    probs = torch.softmax(logits, -1)
    ranking = probs.detach() + weights[f"{here}.router.e_score_correction_bias"]
    return Routing(probs, [row.argsort(descending=True)[: config.moe_topk].tolist() for row in ranking])


def mixture(weights: Weights, config: ModelConfig, here: str, x: Tensor) -> tuple[Tensor, Routing]:
    """Routed and zero experts of one layer, token by token."""
    E, gamma = config.n_routed_experts, config.routed_scaling_factor
    gate_up, down = weights[f"{here}.experts.gate_up_proj"], weights[f"{here}.experts.down_proj"]
    routing = route(weights, config, here, x)
    rows = []
    for token, probs, chosen in zip(x, routing.probs, routing.chosen, strict=True):
        gates = {expert: probs[expert] for expert in chosen}
        if config.norm_topk_prob:
            total = sum(gates.values())
            gates = {expert: gate / total for expert, gate in gates.items()}
        row = torch.zeros_like(token)
        for expert, gate in gates.items():
            if expert < E:
                row = row + gamma * gate * swiglu(token, gate_up[expert, 0], gate_up[expert, 1], down[expert])
            elif config.zero_expert_type == "identity":
                row = row + (gamma if config.scale_zero_experts else 1.0) * gate * token
        rows.append(row)
    return torch.stack(rows), routing


# --- one document through the model ---------------------------------------------------------------------------------


@dataclass
class Group:
    """One indexer and the attention sublayers that use its selection."""

    index: Index
    allowed: Tensor  # [S, S]
    probs: list[Tensor] = field(default_factory=list)  # a [h, S, S] for every sublayer of the group


@dataclass
class Step:
    """One MTP draft step: row i is position i of the document and predicts token i + d + 1."""

    chained: Tensor  # [S - d, H], handed to the next step
    logits: Tensor  # [S - d, V]


@dataclass
class Document:
    """Everything the model computed for one document."""

    tokens: list[int]
    embedding: Tensor  # [S, H]
    hidden: Tensor  # [S, H], before the final norm
    normed: Tensor  # [S, H], after it
    logits: Tensor  # [S, V]
    routings: list[Routing]  # one per layer
    groups: list[Group]  # one per owner
    steps: list[Step] = field(default_factory=list)  # one per MTP step
    mtp_group: Group | None = None


def run_document(weights: Weights, config: ModelConfig, tokens: list[int], dense: bool = False) -> Document:
    """Forward pass of the main model. `dense`: attention sees every key, indexers score but do not select."""
    embedding = hidden = embed(weights, config, tokens)
    routings: list[Routing] = []
    groups: list[Group] = []
    for layer in range(config.num_layers):
        hidden = decoder_layer(weights, config, layer, hidden, routings, groups, dense)
    normed = rms_norm(hidden, weights["norm.weight"], config.rms_norm_eps)
    logits = normed @ weights["lm_head.weight"].T
    return Document(tokens, embedding, hidden, normed, logits, routings, groups)


def decoder_layer(
    weights: Weights,
    config: ModelConfig,
    layer: int,
    hidden: Tensor,
    routings: list[Routing],
    groups: list[Group],
    dense: bool,
) -> Tensor:
    """Two serial sublayers and the shortcut-connected mixture (arXiv 2509.01322 figure 2)."""
    here, eps = f"layers.{layer}", config.rms_norm_eps

    def norm(kind: str, i: int, x: Tensor) -> Tensor:
        return rms_norm(x, weights[f"{here}.{kind}_layernorm.{i}.weight"], eps)

    def attend(i: int, x: Tensor) -> Tensor:
        place, sublayer = f"{here}.self_attn.{i}", 2 * layer + i
        if is_owner(config, sublayer):
            groups.append(_new_group(weights, config, place, x, owner=len(groups), dense=dense))
        allowed = groups[-1].allowed if groups else causal(len(x))
        out, probs = attention(weights, config, place, x, allowed)
        if groups:
            groups[-1].probs.append(probs)
        return out

    a = hidden + attend(0, norm("input", 0, hidden))
    x0 = norm("post_attention", 0, a)
    shortcut, routing = mixture(weights, config, f"{here}.mlp", x0)
    routings.append(routing)
    b = a + dense_ffn(weights, f"{here}.mlps.0", x0)
    c = b + attend(1, norm("input", 1, b))
    x1 = norm("post_attention", 1, c)
    return c + dense_ffn(weights, f"{here}.mlps.1", x1) + shortcut


def _new_group(weights: Weights, config: ModelConfig, here: str, x: Tensor, owner: int, dense: bool) -> Group:
    found = index(weights, config, here, x)
    return Group(found, causal(len(x)) if dense else select(config, found, owner))


def draft(weights: Weights, config: ModelConfig, document: Document, dense: bool = False) -> None:
    """Unroll the MTP block over the document, teacher-forced; fills `steps` and `mtp_group`."""
    here, eps = "mtp.layers.0", config.rms_norm_eps
    fused = document.embedding if config.mtp.use_ngram else weights["embed_tokens.weight"][document.tokens]
    previous = document.normed if config.mtp.chain == "post_norm" else document.hidden
    for d in range(1, config.mtp.steps + 1):
        rows = len(document.tokens) - d
        if rows < 1:
            return
        e = rms_norm(fused[d:], weights[f"{here}.enorm.weight"], eps)
        h = rms_norm(previous[:rows], weights[f"{here}.hnorm.weight"], eps)
        u = torch.cat([e, h], -1) @ weights[f"{here}.eh_proj.weight"].T
        x = rms_norm(u, weights[f"{here}.input_layernorm.weight"], eps)
        if d == 1 and config.sparse.topk and config.mtp.indexer:
            # The draft block is no numbered owner: pages are for the main model's later owners only.
            document.mtp_group = _new_group(weights, config, f"{here}.self_attn", x, owner=-1, dense=dense)
        allowed = document.mtp_group.allowed[:rows, :rows] if document.mtp_group else causal(rows)
        out, probs = attention(weights, config, f"{here}.self_attn", x, allowed)
        if document.mtp_group:
            document.mtp_group.probs.append(probs)
        v = u + out
        post = rms_norm(v, weights[f"{here}.post_attention_layernorm.weight"], eps)
        v = v + dense_ffn(weights, f"{here}.mlp", post)
        normed = rms_norm(v, weights["mtp.norm.weight"], eps)
        previous = normed if config.mtp.chain == "post_norm" else v
        document.steps.append(Step(chained=previous, logits=normed @ weights["lm_head.weight"].T))


# --- packed batches -------------------------------------------------------------------------------------------------


def documents_of(tokens: Tensor, first: Tensor | None) -> Iterator[list[int]]:
    """The documents of a batch [B, S], rows in order. `first[b, i]`: where the document of position i starts."""
    for b, row in enumerate(tokens.tolist()):
        starts = [0] if first is None else sorted(set(first[b].tolist()))
        for start, end in zip(starts, [*starts[1:], len(row)], strict=True):
            yield row[start:end]


def run(
    weights: Weights,
    config: ModelConfig,
    tokens: Tensor,
    first: Tensor | None = None,
    dense: bool = False,
    mtp: bool = False,
) -> list[Document]:
    """Forward pass of a packed batch, document by document."""
    found = []
    for ids in documents_of(tokens, first):
        document = run_document(weights, config, ids, dense)
        if mtp:
            draft(weights, config, document, dense)
        found.append(document)
    return found


def batch_of(rows: Iterable[Tensor], like: Tensor) -> Tensor:
    """Concatenate the documents' rows back into a batch [B, S, ...]."""
    flat = torch.cat(list(rows))
    return flat.reshape(*like.shape, *flat.shape[1:])


# --- losses ---------------------------------------------------------------------------------------------------------


def lm_loss(documents: list[Document]) -> Tensor:
    """Mean over all positions that have a next token in their document."""
    return torch.stack([n for d in documents for n in _nll(d.logits, d.tokens[1:])]).mean()


def mtp_loss(documents: list[Document], steps: int) -> Tensor:
    """Mean over draft steps d of the mean cross entropy on token i + d + 1, inside the document."""
    means = []
    for d in range(1, steps + 1):
        drafted = [document for document in documents if len(document.steps) >= d]
        terms = [n for document in drafted for n in _nll(document.steps[d - 1].logits, document.tokens[d + 1 :])]
        means.append(torch.stack(terms).mean() if terms else torch.zeros((), dtype=torch.float64))
    return torch.stack(means).mean()


def _nll(logits: Tensor, targets: list[int]) -> list[Tensor]:
    return [torch.logsumexp(row, -1) - row[target] for row, target in zip(logits, targets, strict=False)]


def z_loss(documents: list[Document]) -> Tensor:
    """Hidden z-loss without its weight: mean square of log sum exp |z| of the last hidden state."""
    hidden = torch.cat([document.hidden for document in documents])
    return torch.logsumexp(hidden.abs(), -1).square().mean()


def balance_loss(config: ModelConfig, routings: list[Routing], groups: int, target: float) -> Tensor:
    """Device-level balance loss of one layer without α; `routings` are that layer's, one per document.

    `groups`: D groups of routed experts; `target`: K_e, or 0 for the share that uniform routing gives.
    """
    E, Z, K = config.n_routed_experts, config.zero_expert_num, config.moe_topk
    target = target or K * E / (E + Z)
    probs = torch.cat([routing.probs for routing in routings])
    chosen = [expert for routing in routings for token in routing.chosen for expert in token]
    T, size = len(probs), E // groups
    loss = torch.zeros((), dtype=probs.dtype)
    for j in range(groups):
        members = range(j * size, (j + 1) * size)
        share = probs[:, members.start : members.stop].sum() / T
        slots = sum(expert in members for expert in chosen)
        loss = loss + groups * slots / (target * T) * share
    if Z and target < K:
        slots = sum(expert >= E for expert in chosen)
        loss = loss + slots / ((K - target) * T) * probs[:, E:].sum() / T
    return loss


def indexer_kl(group: Group) -> Tensor:
    """KL(p_t || softmax(I_t)) over the keys the group's attention saw, summed over its sublayers: one value a query.

    p_t: core attention probabilities summed over heads and renormalised, detached. A later MTP step has fewer rows.
    """
    scores = group.index.scores().masked_fill(~group.allowed, -math.inf)
    log_q = torch.log_softmax(scores, -1).masked_fill(~group.allowed, 0.0)
    total = torch.zeros(len(scores), dtype=scores.dtype)
    for probs in group.probs:
        rows = probs.shape[1]
        p = probs.detach().sum(0)
        p = p / p.sum(-1, keepdim=True)
        kl = (torch.special.xlogy(p, p) - p * log_q[:rows, :rows]).sum(-1)
        total = total + torch.cat([kl, torch.zeros(len(scores) - rows, dtype=kl.dtype)])
    return total
