"""Suite imagenet-128: class-conditional ImageNet at 128 x 128, ADM's protocol."""

from __future__ import annotations

from harope_bench.suites.imagenet_suite import ImageNetSuite

PLUGIN = ImageNetSuite(128)
