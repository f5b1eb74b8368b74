"""Any network as a backbone: traced to a chain of steps, divided into local layers, and wrapped unchanged."""
