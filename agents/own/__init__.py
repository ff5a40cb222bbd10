"""Features of a user's own: read, checked, compiled to native code that the kernel calls by address."""
