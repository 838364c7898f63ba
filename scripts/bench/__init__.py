"""The benches: this project's way of doing a thing against a named reference, with a verdict."""
