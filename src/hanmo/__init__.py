"""Hanmo (翰墨): small Chinese language models, end to end.

Every stage is a function in `hanmo.api` (the bare names `hanmo.pretrain` and so on are the rooms, that is packages):

    from hanmo import api
    api.run("recipes/demo.yaml", out="runs/demo")
    api.pretrain(data="runs/demo/tokens", out="runs/mine", preset="hanmo-4m", tokens="3M")
"""

from __future__ import annotations

__version__ = "0.1.0"

from hanmo.registration import register as _register

_register()
