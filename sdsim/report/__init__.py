"""What people see: tables, progress bars and pictures. Nothing here computes a result."""
