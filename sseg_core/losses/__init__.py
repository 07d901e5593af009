"""What is minimised: matching, mask losses, the contrastive loss and their sum."""
