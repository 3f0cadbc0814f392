"""The built-in policies: one file, one class, one test file each."""
