"""Experiments that compare attention kernels: one folder a question."""
