"""Rows to what people look at."""
