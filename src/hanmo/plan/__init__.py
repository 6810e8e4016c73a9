"""What a recipe will cost before it runs: text to tokens (`text`), and training (`training`).

`shape` counts a model's parts, `memory` adds up what a device must hold, `speed` says how fast it will go, `devices`
knows the devices and what is free on this one, `fit` finds the settings under which a run fits.
"""
