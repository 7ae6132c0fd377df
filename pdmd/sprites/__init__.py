"""The embedded world and its teacher."""
