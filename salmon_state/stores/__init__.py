"""The stores that come with salmon-state, one module for each backend."""
