"""What a run costs: measured, with the definition beside the number."""
