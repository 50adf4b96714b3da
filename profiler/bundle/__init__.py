"""One redacted file of a run, for a bug report: made here, and opened as a stranger's."""
