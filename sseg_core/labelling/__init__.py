"""Where labels come from: a teacher, and images that nobody labelled."""
