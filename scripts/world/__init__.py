"""A procedural world of small drawn scenes, with captions and questions in the forms of GQA, VQAv2 and POPE."""
