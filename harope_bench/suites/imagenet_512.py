"""Suite imagenet-512: class-conditional ImageNet at 512 x 512, ADM's protocol."""

from __future__ import annotations

from harope_bench.suites.imagenet_suite import ImageNetSuite

PLUGIN = ImageNetSuite(512)
