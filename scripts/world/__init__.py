"""Data that is made here: a world of small drawn scenes, and easy-VQA, in the forms of GQA, VQAv2 and POPE."""
