"""The measurements: ours beside what a user would pick instead, interleaved in one run."""
