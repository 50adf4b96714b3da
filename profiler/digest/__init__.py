"""What pages show of a run, computed once and kept in the user's cache folder."""
