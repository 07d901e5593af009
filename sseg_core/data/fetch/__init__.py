"""How files come from outside: single images, large files, shards of the hub."""
