"""Code that several test files share: configurations, command lines, small runs, golden values."""
