"""Named causes against measured removals: training scripts with planted causes, and their score."""
