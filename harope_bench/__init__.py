"""Benchmark and evaluation harness for positional encodings in image transformers."""

__version__ = "0.1.0"
