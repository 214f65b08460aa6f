"""Handlers that do nothing but move their sender on: what is left is the state."""
