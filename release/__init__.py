"""What ``make release`` does: distributions that were tried, and the words that go with them."""
