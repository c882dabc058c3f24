"""A small labelled data set of rendered scenes, so that the demo needs no download."""
