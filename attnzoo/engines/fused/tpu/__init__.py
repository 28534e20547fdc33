"""Kernels of a TPU: softmax over listed tiles, and recurrences."""
