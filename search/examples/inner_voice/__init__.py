"""The study that `make demo` runs: see README.md."""
