"""What `explore` draws: one file per method, one function per picture."""
