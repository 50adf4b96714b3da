"""A diagnosis for people: in the terminal, as Markdown."""
