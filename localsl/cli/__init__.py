"""The command line: what was typed, the jobs it stands for, and what it prints."""
