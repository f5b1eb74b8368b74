"""The command line: parsing, the jobs that it describes, and the printed output."""
