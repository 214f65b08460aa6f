"""A mailing list with double opt-in; see handlers.py for what it answers to."""
