"""What training minimises: always a sum and a count, never a mean."""
