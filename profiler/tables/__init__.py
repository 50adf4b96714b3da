"""Tables and series derived from a run, for whoever shows them: pure functions, plain data."""
