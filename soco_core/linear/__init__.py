"""Linear evaluation on labelled images, and their nearest neighbours (paper B)."""
