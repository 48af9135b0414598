"""What a finished run or an exported folder is, and what its card says of it to others."""
