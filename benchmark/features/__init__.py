"""What touches a network: feature extractors."""
