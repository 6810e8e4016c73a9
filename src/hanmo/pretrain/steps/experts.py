"""One forward and backward pass of a mixture of experts over packed rows, and the balance of its experts.

Both ways to balance (`hanmo.models.experts`) look at how the tokens of a whole step fell on the experts, whatever
micro-batches, lanes and processes that step was cut into. The bias moves behind the step, by that load. The auxiliary
loss has the shares of the step before in the place of its own, which are known only at the step's end; the first step
takes all to be alike, where the loss pulls at nothing. So the loss is a sum over tokens, as the cross-entropy is.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanmo.errors import HanmoError
from hanmo.models.experts import Routed, Routing, blocks, moved_bias, violation
from hanmo.models.loss import IGNORE
from hanmo.pretrain.distributed import World
from hanmo.pretrain.settings import ExpertSettings
from hanmo.pretrain.steps.packed import PackedStep
from hanmo.tokens.order import Rows


class ExpertsStep(PackedStep):
    """`PackedStep` for stock classes with experts in every layer: Qwen2-MoE and GLM-4-MoE.

    The loss is the cross-entropy; the auxiliary loss changes its gradients and not its value, so that curves of all
    models can be compared.

    Args:
        experts: how to balance them.
    """

    #: Routers compute in fp32: whether a token goes to one expert or another hangs on small differences.
    exact = ("mlp.gate.weight",)

    def __init__(self, model: Any, *arguments: Any, experts: ExpertSettings | None = None, **keywords: Any) -> None:
        routing = Routing.of(model.config)
        if routing is None or len(blocks(model)) != model.config.num_hidden_layers:
            raise HanmoError(
                f"{type(model).__name__}: what can be trained has experts in every layer, in one group "
                "(Qwen2-MoE; GLM-4-MoE with first_k_dense_replace: 0 and n_group: 1)"
            )
        self._routing, self._settings = routing, experts or ExpertSettings()
        self._gates = [block.gate for block in blocks(model)]
        self._balance = self._settings.balance
        if self._balance == "auto":
            self._balance = "bias" if routing.sigmoid else "auxiliary"
        if self._balance == "bias" and not routing.sigmoid:
            raise HanmoError(f"experts: balance: {type(model).__name__} has no bias to balance by; take auxiliary")
        super().__init__(model, *arguments, **keywords)
        places = len(self._gates), routing.experts
        self._shares = torch.full(places, 1 / routing.experts, device=self.device)
        self._loads = torch.zeros(places, dtype=torch.int64, device=self.device)
        # What is told of the steps behind is added up on the CPU: not every device knows float64.
        self._seen, self._steps = torch.zeros(places, dtype=torch.float64), 0
        self._exceeded = torch.zeros(places[0], dtype=torch.float64)
        self._adding = threading.Lock()

    def _layers(self) -> nn.ModuleList:
        return nn.ModuleList(Routed(layer, self._routing) for layer in self._decoder.layers)

    @staticmethod
    def _call(layer: Any, hidden: Tensor, *given: Any) -> Any:
        mask, cosine, sine, *rest = given
        return layer(hidden, mask, (cosine, sine), *rest)

    def _mixed(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Last hidden states [rows, context, d] in the compute dtype; what pulls at the routers."""
        inputs, position, targets = self._moved(rows.inputs, rows.position, rows.targets)
        # The tokens by which the loss is divided, so that both parts of it are means over the same.
        real = (targets.flatten() != IGNORE).float()
        hidden = F.embedding(inputs, self.model.get_input_embeddings().weight).to(self.dtype)
        with torch.no_grad():
            cosine, sine = self._decoder.rotary_emb(hidden, position)
        visible, pulls, loads = self._visible(rows), [], []
        for number, gate in enumerate(self._gates):
            bias = gate.e_score_correction_bias if self._routing.sigmoid else None
            given = (visible, cosine, sine, real, self._shares[number], bias)
            hidden, pulled, used = self._through.layer(number, hidden, *given)
            pulls.append(pulled)
            loads.append(used)
        with self._adding:  # lanes add in any order: the counts are whole numbers
            self._loads += torch.stack(loads).detach()
        gain = self._decoder.norm
        hidden = F.rms_norm(hidden.float(), (hidden.shape[-1],), gain.weight, gain.variance_epsilon).to(self.dtype)
        return hidden, torch.stack(pulls).mean()

    def _sum(self, rows: Rows) -> Tensor:
        hidden, pulled = self._mixed(rows)
        loss = self._cross_entropy(hidden, rows)
        if self._balance != "auxiliary":
            return loss
        return loss + self._settings.weight * (pulled - pulled.detach())

    def as_modules(self) -> None:
        """Cutting weights over processes is for layers that give one stream."""
        raise HanmoError("parallel: fsdp and zero3 cannot train experts; set parallel: ddp")

    def begin(self) -> None:
        """What comes now is a step's: a look at held-out text before it does not count."""
        self._loads.zero_()

    def settle(self, world: World, moved: bool) -> None:
        """The step is done: balance by the load of all processes, unless it left the weights as they were."""
        loads = torch.tensor(world.sum(*self._loads.flatten().tolist()), dtype=torch.float64).view(self._loads.shape)
        self._loads.zero_()
        if not moved or not loads.any():
            return
        self._seen += loads
        self._exceeded += violation(loads)
        self._steps += 1
        self._shares.copy_(loads / loads.sum(-1, keepdim=True))
        if self._balance == "bias":
            for gate, load in zip(self._gates, loads, strict=True):
                gate.e_score_correction_bias.copy_(moved_bias(gate.e_score_correction_bias, load, self._settings.rate))

    def state(self) -> dict[str, Tensor]:
        """The shares of the last step, and the biases: the tensors in use."""
        biases = {
            f"experts.bias.{number}": gate.e_score_correction_bias
            for number, gate in enumerate(self._gates)
            if self._routing.sigmoid
        }
        return {"experts.shares": self._shares, **biases}

    def figures(self) -> dict[str, Any]:
        """Of the steps since the last call: `violation` (mean over steps and layers), of the worst layer, all shares.

        `violation` is by how much the busiest expert exceeds its share; `shares` has a list for each layer.
        """
        if not self._steps:
            return {}
        exceeded = self._exceeded / self._steps
        shares = self._seen / self._seen.sum(-1, keepdim=True)
        self._seen.zero_()
        self._exceeded.zero_()
        self._steps = 0
        return {
            "experts": {
                "violation": round(float(exceeded.mean()), 4),
                "worst": round(float(exceeded.max()), 4),
                "shares": [[round(share, 4) for share in layer] for layer in shares.tolist()],
            }
        }
