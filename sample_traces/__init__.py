"""Recorded runs that boundscope ships with."""
