"""The command line: verbs, options and threads; nothing here imports torch."""
