"""sseg."""
