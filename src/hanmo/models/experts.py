"""Mixture of experts: routing, the products of many experts in one, balance, and what is active for a token.

The stock classes with shared experts are alike but for the choice. Qwen2-MoE takes the largest shares of a softmax;
GLM-4-MoE takes the largest of sigmoid scores, to which a bias is added for the choice alone. Either can be balanced in
one of two ways:

* `auxiliary_loss` (Switch Transformer, arXiv:2101.03961, equations 4 to 6): of a layer with n experts, n times the sum
  over experts of f_e * P_e, where f_e is the share of the choices that fell on an expert and P_e its mean probability.
  It is 1 when all experts are chosen alike.
* `moved_bias` (Wang et al., arXiv:2408.15664; DeepSeek-V3): no loss; after every step the bias of an expert that had
  more than its share of the tokens falls by a fixed amount, and that of the others rises.

transformers computes the experts one after another or by a product that goes over rows sorted by expert. `mixed` is the
latter with gradients of its own, since the general ones for giving and taking rows are scattered sums. Compiled, on one
core of a CPU, it takes as much time as transformers' `grouped_mm` or less (`benchmarks/experts.py --layer`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Routing:
    """How a stock class chooses experts.

    Attributes:
        experts, chosen: of a layer, and of them for a token.
        sigmoid: scores are sigmoids and there is a bias for the choice; else shares of a softmax.
        normalised: the weights of the chosen ones are made to sum to 1.
        scale: what the weights are multiplied by.
    """

    experts: int
    chosen: int
    sigmoid: bool
    normalised: bool
    scale: float = 1.0

    @classmethod
    def of(cls, config: Any) -> Routing | None:
        """The routing of a stock configuration; None where it is of no family with experts that is known here."""
        if config.model_type == "qwen2_moe":
            return cls(config.num_experts, config.num_experts_per_tok, False, config.norm_topk_prob)
        if config.model_type == "glm4_moe" and config.n_group == 1:
            scale = config.routed_scaling_factor
            return cls(config.n_routed_experts, config.num_experts_per_tok, True, config.norm_topk_prob, scale)
        return None

    def __call__(self, logits: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Choose.

        Args:
            logits: of the router, float32 [tokens, experts].
            bias: float32 [experts], added for the choice alone.

        Returns:
            indices [tokens, chosen]; weights [tokens, chosen]; probabilities [tokens, experts], which sum to 1.
        """
        scores = logits.sigmoid() if self.sigmoid else logits.softmax(-1)
        index = (scores if bias is None else scores + bias).topk(self.chosen, dim=-1)[1]
        weights = scores.gather(1, index)
        if self.normalised:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        probabilities = scores / scores.sum(-1, keepdim=True) if self.sigmoid else scores
        return index, weights * self.scale, probabilities


def blocks(model: Any) -> list[Any]:
    """The modules of a transformers model that hold experts and a router (`experts`, `gate`), layer by layer."""
    return [m for m in model.modules() if hasattr(m, "experts") and hasattr(m, "gate") and _fused(m.experts)]


def _fused(experts: Any) -> bool:
    return getattr(getattr(experts, "gate_up_proj", None), "ndim", 0) == 3


def inactive_parameters(model: Any) -> int:
    """Parameters that do not take part in computing a token: those of the experts that are not chosen for it."""
    routing = Routing.of(model.config.get_text_config())
    if routing is None:
        return 0
    held = sum(p.numel() for block in blocks(model) for p in block.experts.parameters())
    return held // routing.experts * (routing.experts - routing.chosen)


def load(index: Tensor, experts: int, real: Tensor) -> Tensor:
    """How many choices fell on each expert: int64 [experts], so that sums are exact in any order.

    Args:
        index: [tokens, chosen].
        real: float [tokens], 1 for a token that counts and 0 for padding.
    """
    chosen = (index[..., None] == torch.arange(experts, device=index.device)).any(-2)
    return (chosen & (real > 0)[:, None]).sum(0)


def pull(probabilities: Tensor, shares: Tensor, real: Tensor) -> Tensor:
    """n times the sum over tokens and experts of share times probability, which over the tokens is Switch's loss.

    With the shares given, this is a sum over tokens: however a batch is cut, its parts add up to the same.

    Args:
        probabilities: [tokens, experts].
        shares: [experts], of the choices; they sum to 1.
        real: float [tokens].
    """
    return shares.numel() * (probabilities * shares * real[:, None]).sum()


def auxiliary_loss(index: Tensor, probabilities: Tensor, real: Tensor) -> Tensor:
    """Switch's loss of one layer over the tokens that count; 1 when balanced. Shares are constants to gradients.

    Args:
        index: [tokens, chosen].
        probabilities: [tokens, experts].
        real: float [tokens].
    """
    counts = load(index, probabilities.shape[1], real)
    return pull(probabilities, (counts / counts.sum()).to(probabilities.dtype), real) / real.sum()


def moved_bias(bias: Tensor, loads: Tensor, rate: float) -> Tensor:
    """The bias after a step in which the experts had `loads`: up by `rate` where below the mean, down where above.

    Args:
        bias, loads: [..., experts]; loads of a floating dtype.
    """
    above = loads - loads.mean(-1, keepdim=True)
    return bias - rate * torch.sign(above).to(bias)


def violation(loads: Tensor) -> Tensor:
    """By how much the busiest expert exceeds its share: max / mean - 1 (MaxVio of arXiv:2408.15664).

    Args:
        loads: [..., experts], of a floating dtype.
    """
    return loads.amax(-1) / loads.mean(-1) - 1


def mixed(
    hidden: Tensor, index: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, activation: Any = F.silu
) -> Tensor:
    """The weighted sum of the chosen experts' outputs for every token.

    Args:
        hidden: [tokens, d].
        index, weights: [tokens, chosen].
        gate_up: [experts, 2 f, d], gates first; down: [experts, d, f]; as stock classes hold them.

    Returns:
        [tokens, d] in the dtype of `hidden`. Gradients go to all but `index`.
    """
    flat = index.flatten()
    order = torch.argsort(flat, stable=True)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
    ends = (flat[:, None] == torch.arange(gate_up.shape[0], device=flat.device)).sum(0).cumsum(0)
    rows = _Given.apply(hidden, order, place, index.shape[1])
    gate, up = grouped(rows, gate_up.to(rows.dtype), ends).chunk(2, -1)
    out = grouped(activation(gate) * up, down.to(rows.dtype), ends)
    return _Taken.apply(out, weights.to(out.dtype), order, place)  # type: ignore[return-value]


class _Given(torch.autograd.Function):
    """Every token's row to each of its experts, in the experts' order."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, order: Tensor, place: Tensor, chosen: int) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(place)
        ctx.chosen = chosen
        return hidden[order // chosen]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        (place,) = ctx.saved_tensors
        return grad[place].unflatten(0, (-1, ctx.chosen)).sum(1), None, None, None


class _Taken(torch.autograd.Function):
    """The experts' rows back to their tokens, weighted and summed."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor, order: Tensor, place: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(rows, weights, order, place)
        return (rows[place].unflatten(0, weights.shape) * weights[..., None]).sum(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        rows, weights, order, place = ctx.saved_tensors
        to_rows = grad[order // weights.shape[1]] * weights.flatten()[order][:, None]
        to_weights = (rows[place].unflatten(0, weights.shape) * grad[:, None]).sum(-1)
        return to_rows, to_weights, None, None


@torch.library.custom_op("hanmo::grouped", mutates_args=())
def grouped(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """Rows that lie sorted by expert, each times its expert's matrix.

    An operator of its own, so that a compiled graph goes through it: how many rows an expert has is known only then.

    Args:
        rows: [n, inputs].
        weights: [experts, outputs, inputs].
        ends: int64 [experts], where each expert's rows end.

    Returns:
        [n, outputs].
    """
    out = rows.new_empty(rows.shape[0], weights.shape[1])
    start = 0
    for matrix, end in zip(weights.unbind(0), ends.tolist(), strict=True):
        if end > start:
            torch.mm(rows[start:end], matrix.mT, out=out[start:end])
        start = end
    return out


@grouped.register_fake
def _(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], weights.shape[1])


@torch.library.custom_op("hanmo::grouped_backward", mutates_args=())
def _grouped_backward(grad: Tensor, rows: Tensor, weights: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of rows and weights of `grouped`; nought for an expert without rows."""
    grad = grad.contiguous()
    to_rows, to_weights = torch.empty_like(rows), torch.empty(weights.shape, dtype=weights.dtype, device=weights.device)
    start = 0
    for expert, end in enumerate(ends.tolist()):
        if end > start:
            torch.mm(grad[start:end], weights[expert], out=to_rows[start:end])
            torch.mm(grad[start:end].mT, rows[start:end], out=to_weights[expert])
        else:
            to_weights[expert].zero_()
        start = end
    return to_rows, to_weights


@_grouped_backward.register_fake
def _(grad: Tensor, rows: Tensor, weights: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(rows), torch.empty(weights.shape, dtype=weights.dtype, device=weights.device)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    return *_grouped_backward(grad, *ctx.saved_tensors), None


grouped.register_autograd(_backward, setup_context=_save)


class Routed(nn.Module):
    """A stock decoder layer with experts, which also says what its router did.

    It computes what the layer's own forward pass does, the router in float32, and the experts by `mixed`.

    Args:
        layer: of Qwen2-MoE or GLM-4-MoE.
        routing: of its configuration.
    """

    def __init__(self, layer: Any, routing: Routing) -> None:
        super().__init__()
        self.layer, self.routing = layer, routing

    def forward(
        self,
        hidden: Tensor,
        visible: Tensor,
        rotary: tuple[Tensor, Tensor],
        real: Tensor,
        shares: Tensor,
        bias: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The stream behind the layer [rows, context, d]; the `pull` of its tokens; the `load` of its experts.

        Args:
            hidden: [rows, context, d].
            visible: the attention mask, as the attention in use wants it.
            rotary: cosine and sine.
            real: float [rows * context].
            shares: [experts], for `pull`.
            bias: float32 [experts] for the choice.
        """
        layer, block = self.layer, self.layer.mlp
        attended, _ = layer.self_attn(
            hidden_states=layer.input_layernorm(hidden), attention_mask=visible, position_embeddings=rotary
        )
        hidden = hidden + attended
        normed = layer.post_attention_layernorm(hidden)
        flat = normed.flatten(0, 1)
        index, weights, probabilities = self.routing(F.linear(flat.float(), block.gate.weight.float()), bias)
        experts = block.experts
        out = mixed(flat, index, weights, experts.gate_up_proj, experts.down_proj, experts.act_fn)
        if self.routing.sigmoid:
            out = out + block.shared_experts(flat)
        else:
            out = out + block.shared_expert_gate(flat).sigmoid() * block.shared_expert(flat)
        used = load(index, self.routing.experts, real)
        return hidden + out.view_as(hidden), pull(probabilities, shares, real), used
