"""Official VQAv2, GQA and POPE scores as pure functions."""
