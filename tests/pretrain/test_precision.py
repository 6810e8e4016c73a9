"""The probe for the dtype of products."""

from __future__ import annotations

import torch

from hanmo.pretrain.precision import bf16_gain, choose


def test_the_probe_leaves_the_threads_as_they_were() -> None:
    threads = torch.get_num_threads()
    assert bf16_gain(torch.device("cpu"), size=64, seconds=0.01) > 0
    assert torch.get_num_threads() == threads


def test_what_is_asked_for_is_not_probed() -> None:
    assert choose(torch.device("cpu"), "fp32") == torch.float32
    assert choose(torch.device("cpu"), "bf16") == torch.bfloat16
