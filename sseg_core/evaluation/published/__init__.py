"""Which numbers others published: data with sources, never measured here."""
