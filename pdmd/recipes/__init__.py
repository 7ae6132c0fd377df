"""Recipes as TOML: one a kind of teacher; `--recipe FILE` takes any other."""
