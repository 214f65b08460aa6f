"""Growth: what each operation costs at ten thousand, a hundred thousand and a million."""
