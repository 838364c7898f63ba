"""`vlm doctor`: is the environment, a model, a run or a data folder well?"""
