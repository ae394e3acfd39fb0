"""Experiments on top of unitprobe; run them from the root of the checkout."""
