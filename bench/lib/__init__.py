"""The parts of bench/compare: one file each for what is started, what is asked of it, and what is told of it."""
