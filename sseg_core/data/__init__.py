"""What goes in: sources, shards, the loader, augmentation and the toy world."""
