"""What people look at: pages of scores and pictures."""
