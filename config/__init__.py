"""The Salmon application: its settings, and the modules that boot it, serve it and test it."""
