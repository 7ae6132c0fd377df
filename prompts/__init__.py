"""The prompt files."""
