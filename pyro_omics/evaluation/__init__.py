"""What a finished fit leaves in its folder, and several fits in one table."""
