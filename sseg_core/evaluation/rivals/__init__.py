"""Who is scored: trained models, pseudo-masks, and the methods of others."""
