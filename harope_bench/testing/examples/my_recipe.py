"""Recipe my-recipe: a few steps of a tiny DiT on handwritten digits.

It tests in seconds that training, registration and evaluation work. For numbers, take the sizes
and the schedule of the shipped recipe digits-dit: hidden 64, depth 4, 4,500 steps of 128 images.
"""

from __future__ import annotations

PLUGIN = {
    "kind": "denoiser",  # trains a network of labels to remove noise
    "name": "my-recipe",
    "suite": "digits",  # its split `train` is the training set
    "backbone": "dit",
    "sampler": "flow",
    "draw_steps": 4,  # default of the checkpoint, as is guidance
    "guidance": 1.5,
    "label_drop": 0.1,  # fraction of examples without label, which guidance needs
    "ema": 0.9,
    # Sizes of the network; the encoding is given on the command line.
    "config": {
        "hidden": 32,
        "depth": 2,
        "heads": 2,
        "patch": 4,
        "size": 28,
        "channels": 1,
        "classes": 10,
    },
    "schedule": {
        "steps": 40,
        "batch": 32,
        "lr": 0.002,
        "warmup": 10,
        "clip": 1.0,
        "seed": 0,
        "snapshot": 20,  # training resumes from the last multiple of it
    },
}
