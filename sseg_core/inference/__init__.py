"""What users call: the segmenter, mask combination and drawing."""
