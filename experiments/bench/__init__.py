"""Rows of measurements: how they are made, kept and known again."""
