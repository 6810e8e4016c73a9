"""After pretraining: a base model becomes one that answers (SFT) and then one that answers better (DPO).

`forms` and `preferences` know how people write dialogues and preferences down, `sources` reads their files, `records`
puts both together with the accounting, `encode` makes tokens of them; `sft` and `dpo` hand those to TRL's trainers.
"""
