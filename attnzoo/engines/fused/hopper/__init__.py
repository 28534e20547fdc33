"""Kernels of a Hopper GPU: softmax over listed tiles, and recurrences."""
