"""What `explore` draws: one file a method, one function a picture."""
