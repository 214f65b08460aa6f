"""The kinds of databases that can keep states, and what each needs that the others do not."""
