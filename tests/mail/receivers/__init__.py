"""The receivers."""
