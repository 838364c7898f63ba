"""Not yet."""


def faults(settings):
    return iter(())
