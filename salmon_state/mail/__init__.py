"""Salmon's side: what makes its router, and whatever answers mail, part of a conversation."""
