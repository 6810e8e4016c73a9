"""Reinforcement learning: a model writes answers, rewards judge them, and it learns what earned more than its own mean.

`rewards` judges (with `hanmo.evaluate.arithmetic` and `verse`), `rollouts` writes the answers fast and keeps them,
`stage` trains.
"""
