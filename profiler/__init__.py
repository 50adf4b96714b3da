"""From run folders and traces to a diagnosis."""
