def faults(settings):
    return iter(())
