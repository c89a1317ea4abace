"""The recipe of a training that takes a second, as text."""

from __future__ import annotations

RECIPE = """
kind = "denoiser"
name = "{name}"
suite = "digits"
backbone = "dit"
sampler = "flow"
draw_steps = 2
guidance = 1.5
label_drop = 0.1
ema = 0.9

[config]
hidden = 16
depth = 1
heads = 2
patch = 7
size = 28
channels = 1
classes = 10

[schedule]
steps = {steps}
batch = 4
lr = 0.01
warmup = 5
clip = 1.0
seed = {seed}
snapshot = {snapshot}
"""
