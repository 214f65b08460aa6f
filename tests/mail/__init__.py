"""Salmon's side."""
