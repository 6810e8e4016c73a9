"""Each family computed plainly in float64 from its own tensors under its own names, to hold imported models against.

Nothing of the package or of transformers is used here: loops over heads, the formulas of the papers, no cache, no mask
tricks. Weights: name -> tensor. Ids: [positions]. Results: [positions, vocabulary] or [labels], float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

Weights = dict[str, torch.Tensor]


def fabricate(shapes: dict[str, tuple[int, ...]], seed: int = 1, dtype: torch.dtype = torch.float32) -> Weights:
    """Random weights: matrices large enough to make logits of order 1, norms around 1, nothing zero."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if len(shape) == 1 and ("norm" in name or "ln" in name or "LayerNorm" in name) and "bias" not in name:
            values = 1 + 0.2 * values
        elif len(shape) == 1:
            values = 0.3 * values
        else:
            values = values * (0.4 if "emb" in name or "wte" in name or "wpe" in name else 1.5 / math.sqrt(shape[-1]))
        made[name] = values.to(dtype)
    return made


def _double(weights: Weights) -> Callable[[str], torch.Tensor]:
    return lambda name: weights[name].double()


def _rms(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Zhang & Sennrich 2019: x / sqrt(mean(x^2) + eps) * weight."""
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def _layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred * centred).mean(-1, keepdim=True) + eps) * weight + bias


def _gelu(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def _gelu_new(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _silu(x: torch.Tensor) -> torch.Tensor:
    return x / (1 + torch.exp(-x))


def _angles(positions: int, width: int, theta: float) -> torch.Tensor:
    """[positions, width / 2]: position times theta^(-2i / width), Su et al. 2021."""
    rates = theta ** (-torch.arange(0, width, 2).double() / width)
    return torch.arange(positions).double()[:, None] * rates


def _rotate_halves(x: torch.Tensor, theta: float) -> torch.Tensor:
    """Value i turns with value i + width/2 of its head; x [positions, width]."""
    angle, half = _angles(*x.shape, theta), x.shape[1] // 2
    first, second = x[:, :half], x[:, half:]
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], dim=1)


def _rotate_neighbours(x: torch.Tensor, theta: float) -> torch.Tensor:
    """Values 2i and 2i + 1 are the real and imaginary part of a number that turns; x [positions, width]."""
    angle = _angles(*x.shape, theta)
    turned = torch.view_as_complex(x.reshape(x.shape[0], -1, 2).contiguous()) * torch.polar(
        torch.ones_like(angle), angle
    )
    return torch.view_as_real(turned).reshape(x.shape)


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """One head: q, k, v [positions, width]; allowed [positions, positions] of bool."""
    scores = q @ k.T / math.sqrt(q.shape[1])
    return torch.softmax(scores.masked_fill(~allowed, -math.inf), dim=-1) @ v


def _causal(positions: int) -> torch.Tensor:
    return torch.ones(positions, positions, dtype=torch.bool).tril()


def hf_decoder(
    weights: Weights, ids: list[int], head: int, eps: float, theta: float, at: str = "model."
) -> torch.Tensor:
    """Tiny LLM zh and MiniMind up to the last norm: [positions, width]. Biases and q/k norms where there are any."""
    w = _double(weights)
    layers = 1 + max(int(n.split("layers.")[1].split(".")[0]) for n in weights if "layers." in n)
    x = w(f"{at}embed_tokens.weight")[ids]
    for number in range(layers):
        here = f"{at}layers.{number}."
        h = _rms(x, w(f"{here}input_layernorm.weight"), eps)
        q, k, v = (
            h @ w(f"{here}self_attn.{p}_proj.weight").T
            + (w(f"{here}self_attn.{p}_proj.bias") if f"{here}self_attn.{p}_proj.bias" in weights else 0)
            for p in "qkv"
        )
        heads, group = q.shape[1] // head, q.shape[1] // k.shape[1]
        parts = []
        for index in range(heads):
            mine, theirs = (
                slice(index * head, (index + 1) * head),
                slice(index // group * head, (index // group + 1) * head),
            )
            query, key = q[:, mine], k[:, theirs]
            if f"{here}self_attn.q_norm.weight" in weights:
                query = _rms(query, w(f"{here}self_attn.q_norm.weight"), eps)
                key = _rms(key, w(f"{here}self_attn.k_norm.weight"), eps)
            parts.append(
                _attend(_rotate_halves(query, theta), _rotate_halves(key, theta), v[:, theirs], _causal(len(ids)))
            )
        x = x + torch.cat(parts, 1) @ w(f"{here}self_attn.o_proj.weight").T
        h = _rms(x, w(f"{here}post_attention_layernorm.weight"), eps)
        gate = _silu(h @ w(f"{here}mlp.gate_proj.weight").T) * (h @ w(f"{here}mlp.up_proj.weight").T)
        x = x + gate @ w(f"{here}mlp.down_proj.weight").T
    return _rms(x, w(f"{at}norm.weight"), eps)


def llama2c(weights: Weights, ids: list[int], heads: int, eps: float = 1e-5, theta: float = 1e4) -> torch.Tensor:
    """llama2.c's transformer with its names; the head is `output` where there is one, else the embedding."""
    w = _double(weights)
    layers = 1 + max(int(n.split(".")[1]) for n in weights if n.startswith("layers."))
    x = w("tok_embeddings.weight")[ids]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w(f"{name}.weight").T + (w(f"{name}.bias") if f"{name}.bias" in weights else 0)

    for number in range(layers):
        here = f"layers.{number}."
        h = _rms(x, w(f"{here}attention_norm.weight"), eps)
        q, k, v = (linear(h, f"{here}attention.w{p}") for p in "qkv")
        head, group = q.shape[1] // heads, q.shape[1] // k.shape[1]
        parts = []
        for index in range(heads):
            mine, theirs = (
                slice(index * head, (index + 1) * head),
                slice(index // group * head, (index // group + 1) * head),
            )
            query, key = _rotate_neighbours(q[:, mine], theta), _rotate_neighbours(k[:, theirs], theta)
            parts.append(_attend(query, key, v[:, theirs], _causal(len(ids))))
        x = x + linear(torch.cat(parts, 1), f"{here}attention.wo")
        h = _rms(x, w(f"{here}ffn_norm.weight"), eps)
        gate = _silu(h @ w(f"{here}feed_forward.w1.weight").T) * (h @ w(f"{here}feed_forward.w3.weight").T)
        x = x + gate @ w(f"{here}feed_forward.w2.weight").T
    head_name = "output.weight" if "output.weight" in weights else "tok_embeddings.weight"
    return _rms(x, w("norm.weight"), eps) @ w(head_name).T


def gpt2(weights: Weights, ids: list[int], heads: int, at: str = "", eps: float = 1e-5) -> torch.Tensor:
    """GPT-2: matrices are [in, out], the activation is the tanh form, the head is the embedding or `lm_head`."""
    w = _double(weights)
    layers = 1 + max(int(n.split("h.")[1].split(".")[0]) for n in weights if ".attn.c_attn" in n)
    x = w(f"{at}wte.weight")[ids] + w(f"{at}wpe.weight")[: len(ids)]
    width = x.shape[1]
    head = width // heads
    for number in range(layers):
        here = f"{at}h.{number}."
        h = _layer_norm(x, w(f"{here}ln_1.weight"), w(f"{here}ln_1.bias"), eps)
        q, k, v = (h @ w(f"{here}attn.c_attn.weight") + w(f"{here}attn.c_attn.bias")).split(width, 1)
        cuts = [slice(index * head, (index + 1) * head) for index in range(heads)]
        mixed = torch.cat([_attend(q[:, c], k[:, c], v[:, c], _causal(len(ids))) for c in cuts], 1)
        x = x + mixed @ w(f"{here}attn.c_proj.weight") + w(f"{here}attn.c_proj.bias")
        h = _layer_norm(x, w(f"{here}ln_2.weight"), w(f"{here}ln_2.bias"), eps)
        h = _gelu_new(h @ w(f"{here}mlp.c_fc.weight") + w(f"{here}mlp.c_fc.bias"))
        x = x + h @ w(f"{here}mlp.c_proj.weight") + w(f"{here}mlp.c_proj.bias")
    x = _layer_norm(x, w(f"{at}ln_f.weight"), w(f"{at}ln_f.bias"), eps)
    return x @ w("lm_head.weight" if "lm_head.weight" in weights else f"{at}wte.weight").T


def encoder(
    weights: Weights, ids: list[int], types: list[int], heads: int, at: str, eps: float = 1e-12
) -> torch.Tensor:
    """MegatronBert (norms before each part, `gelu_new`) or BERT (behind each part, exact GELU): [positions, width]."""
    w = _double(weights)
    before = f"{at}encoder.ln.weight" in weights
    act = _gelu_new if before else _gelu

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return _layer_norm(x, w(f"{name}.weight"), w(f"{name}.bias"), eps)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w(f"{name}.weight").T + w(f"{name}.bias")

    layers = 1 + max(int(n.split("encoder.layer.")[1].split(".")[0]) for n in weights if "encoder.layer." in n)
    words, places = w(f"{at}embeddings.word_embeddings.weight"), w(f"{at}embeddings.position_embeddings.weight")
    x = words[ids] + places[: len(ids)] + w(f"{at}embeddings.token_type_embeddings.weight")[types]
    if not before:
        x = norm(x, f"{at}embeddings.LayerNorm")
    head = x.shape[1] // heads
    everything = torch.ones(len(ids), len(ids), dtype=torch.bool)
    for number in range(layers):
        here = f"{at}encoder.layer.{number}."
        h = norm(x, f"{here}attention.ln") if before else x
        q, k, v = (linear(h, f"{here}attention.self.{p}") for p in ("query", "key", "value"))
        cuts = [slice(index * head, (index + 1) * head) for index in range(heads)]
        mixed = torch.cat([_attend(q[:, c], k[:, c], v[:, c], everything) for c in cuts], 1)
        x = x + linear(mixed, f"{here}attention.output.dense")
        if not before:
            x = norm(x, f"{here}attention.output.LayerNorm")
        h = norm(x, f"{here}ln") if before else x
        x = x + linear(act(linear(h, f"{here}intermediate.dense")), f"{here}output.dense")
        if not before:
            x = norm(x, f"{here}output.LayerNorm")
    return norm(x, f"{at}encoder.ln") if before else x


def fill_mask(weights: Weights, hidden: torch.Tensor, at: str, tanh: bool, eps: float = 1e-12) -> torch.Tensor:
    """The masked-LM head over hidden states: dense, activation, norm, word embeddings, bias."""
    w = _double(weights)
    head = "cls.predictions."
    h = hidden @ w(f"{head}transform.dense.weight").T + w(f"{head}transform.dense.bias")
    h = _gelu_new(h) if tanh else _gelu(h)
    h = _layer_norm(h, w(f"{head}transform.LayerNorm.weight"), w(f"{head}transform.LayerNorm.bias"), eps)
    return h @ w(f"{at}embeddings.word_embeddings.weight").T + w(f"{head}bias")


def classify(weights: Weights, hidden: torch.Tensor, at: str, layer: str) -> torch.Tensor:
    """[labels]: the first position through the pooler's tanh and one linear layer."""
    w = _double(weights)
    pooled = torch.tanh(hidden[0] @ w(f"{at}pooler.dense.weight").T + w(f"{at}pooler.dense.bias"))
    return pooled @ w(f"{layer}.weight").T + w(f"{layer}.bias")


def linglong(
    weights: Weights,
    ids: list[int],
    heads: int,
    sparse: tuple[int, int] | None,
    readings: list[int] | None = None,
    tanh: bool = False,
    eps: float = 1e-8,
) -> torch.Tensor:
    """LingLong under its legacy names: [positions, vocabulary].

    Args:
        sparse: (stride, columns): odd layers see their own block and the last columns of earlier blocks.
        readings: ids whose embedding is added to the tokens'.
    """
    w = _double(weights)
    layers = 1 + max(int(n.split("blocks.")[1].split(".")[0]) for n in weights if "blocks." in n)
    x = w("transformer.wte.weight")[ids] + w("transformer.wpe.weight")[: len(ids)]
    if readings is not None:
        x = x + w("transformer.wpinyin.weight")[readings]
    width = x.shape[1]
    cuts = [slice(start, start + width // heads) for start in range(0, width, width // heads)]
    for number in range(layers):
        here = f"transformer.blocks.{number}."
        allowed = _causal(len(ids))
        if sparse is not None and number % 2 == 1:
            stride, columns = sparse
            for q in range(len(ids)):
                for k in range(q + 1):
                    allowed[q, k] = k // stride == q // stride or k % stride >= stride - columns
        h = _layer_norm(x, w(f"{here}ln_1.weight"), w(f"{here}ln_1.bias"), eps)
        q, k, v = (h @ w(f"{here}attn.c_attn.w") + w(f"{here}attn.c_attn.b")).split(width, 1)
        mixed = torch.cat([_attend(q[:, c], k[:, c], v[:, c], allowed) for c in cuts], 1)
        x = x + mixed @ w(f"{here}attn.c_proj.w") + w(f"{here}attn.c_proj.b")
        h = _layer_norm(x, w(f"{here}ln_2.weight"), w(f"{here}ln_2.bias"), eps)
        h = (_gelu_new if tanh else _gelu)(h @ w(f"{here}mlp.c_fc.w") + w(f"{here}mlp.c_fc.b"))
        x = x + h @ w(f"{here}mlp.c_proj.w") + w(f"{here}mlp.c_proj.b")
    x = _layer_norm(x, w("transformer.ln_f.weight"), w("transformer.ln_f.bias"), eps)
    return x @ w("transformer.wte.weight").T


def zhouwenwang(
    weights: Weights,
    ids: list[int],
    types: list[int],
    heads: int,
    at: str = "",
    eps: float = 1e-12,
    states: bool = False,
) -> torch.Tensor:
    """Zhouwenwang: [positions, vocabulary], or the last `states` [positions, d].

    A query sees a key whose running sum of types is not above its own.
    """
    w = _double(weights)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return _layer_norm(x, w(f"{at}{name}.weight"), w(f"{at}{name}.bias"), eps)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w(f"{at}{name}.weight").T + w(f"{at}{name}.bias")

    layers = 1 + max(int(n.split("encoder.layer.")[1].split(".")[0]) for n in weights if "encoder.layer." in n)
    sums = torch.tensor(types).cumsum(0)
    allowed = sums[None, :] <= sums[:, None]
    words = w(f"{at}embeddings.word_embeddings.weight")
    x = words[ids] + w(f"{at}embeddings.token_type_embeddings.weight")[types]
    head = x.shape[1] // heads
    for number in range(layers):
        here = f"encoder.layer.{number}."
        h = norm(x, f"{here}attention.ln")
        q, k, v = (linear(h, f"{here}attention.self.{p}") for p in ("query", "key", "value"))
        parts = []
        for c in (slice(index * head, (index + 1) * head) for index in range(heads)):
            parts.append(_attend(_rotate_neighbours(q[:, c], 1e4), _rotate_neighbours(k[:, c], 1e4), v[:, c], allowed))
        x = x + linear(torch.cat(parts, 1), f"{here}attention.output.dense")
        h = _gelu(linear(norm(x, f"{here}ln"), f"{here}intermediate.dense"))
        x = x + linear(h, f"{here}output.dense")
    x = norm(x, "encoder.ln")
    return x if states else x @ words.T


def randeng(weights: Weights, ids: list[int], written: list[int], heads: int, eps: float = 1e-5) -> torch.Tensor:
    """Megatron-T5: [written, vocabulary]. Norms with biases before each part, scaled attention, learned positions."""
    w = _double(weights)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return _layer_norm(x, w(f"{name}.weight"), w(f"{name}.bias"), eps)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w(f"{name}.weight").T + w(f"{name}.bias")

    def attention(x: torch.Tensor, states: torch.Tensor, name: str, allowed: torch.Tensor) -> torch.Tensor:
        q, k, v = linear(x, f"{name}.q"), linear(states, f"{name}.k"), linear(states, f"{name}.v")
        head = q.shape[1] // heads
        cuts = [slice(index * head, (index + 1) * head) for index in range(heads)]
        return linear(torch.cat([_attend(q[:, c], k[:, c], v[:, c], allowed) for c in cuts], 1), f"{name}.o")

    def half(name: str, tokens: list[int], states: torch.Tensor | None) -> torch.Tensor:
        x = w("shared.word_embeddings.weight")[tokens] + w("shared.position_embeddings.weight")[: len(tokens)]
        everything = torch.ones(len(tokens), len(tokens if states is None else states), dtype=torch.bool)
        for number in range(1 + max(int(n.split(".")[2]) for n in weights if n.startswith(f"{name}.block."))):
            here = f"{name}.block.{number}.T5Layer"
            own = norm(x, f"{here}SelfAttention.layer_norm")
            seen = everything if states is None else _causal(len(tokens))
            x = x + attention(own, own, f"{here}SelfAttention.SelfAttention", seen)
            if states is not None:
                own = norm(x, f"{here}CrossAttention.layer_norm")
                x = x + attention(own, states, f"{here}CrossAttention.EncDecAttention", everything)
            h = _gelu(linear(norm(x, f"{here}FF.layer_norm"), f"{here}FF.DenseReluDense.wi"))
            x = x + linear(h, f"{here}FF.DenseReluDense.wo")
        return norm(x, f"{name}.final_layer_norm")

    last = half("decoder", written, half("encoder", ids, None))
    return last @ w("shared.word_embeddings.weight").T + w("lm_head_bias")
