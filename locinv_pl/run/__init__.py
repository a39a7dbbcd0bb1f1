"""A run: many images, inverted as a Lightning training, kept in a folder."""
