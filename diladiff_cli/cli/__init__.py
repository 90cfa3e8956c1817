"""The command line: thin commands over the stages, with options generated from their configurations."""
