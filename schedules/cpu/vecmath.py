def vectorise(f):
    return f
