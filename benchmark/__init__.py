"""The benchmark harness: prompts to media to features to numbers to reports."""
