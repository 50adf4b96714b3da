"""Foreign trace formats into columns, and what follows from the columns alone."""
