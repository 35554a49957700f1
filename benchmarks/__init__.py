"""Measure: speed, quality, memory and cost of a variant, and of our own house beside its peers.

Lives here: the measuring machine, workloads, comparisons, and the `make bench-<name>` programs.

May import: `quantize`, `serving`, `catalog`. A `bench-<name>` program that measures the marketplace
starts it as a process, as a user would, and never imports it.
"""
