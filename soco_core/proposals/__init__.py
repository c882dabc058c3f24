"""Object proposals: selective search, its filter, shards and their merge (paper 3.2, appendix A)."""
