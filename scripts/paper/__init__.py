"""What scripts/paper_table.py is made of: runs on disk, gains of one over another, the table as text and picture."""
