"""Starting one command as several processes, on one machine or many."""
