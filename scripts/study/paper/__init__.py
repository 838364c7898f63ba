"""The paper's table: runs on disk, gains of one over another, the table as text and picture."""
