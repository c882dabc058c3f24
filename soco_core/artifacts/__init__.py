"""What the stages hand each other: result directories, their fingerprints, and the files in them."""
