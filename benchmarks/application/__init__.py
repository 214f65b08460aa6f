"""A Salmon application for ``salmon start``, as small as one can be."""
