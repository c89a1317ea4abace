"""Suite imagenet-256: class-conditional ImageNet at 256 x 256, ADM's protocol."""

from __future__ import annotations

from harope_bench.suites.imagenet_suite import ImageNetSuite

PLUGIN = ImageNetSuite(256)
