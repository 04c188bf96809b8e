"""The beginning of a program in which unpickling is deadly and every module of raftstore is imported."""

POISONED = """
import pickle
import pysyncobj.pickle  # changes the tables of the unpickler when it is imported, before they are poisoned

class Poisoned(BaseException):
    pass

def poisoned(*args, **kwargs):
    raise Poisoned("something was unpickled")

class PoisonedUnpickler(pickle.Unpickler):
    load = poisoned

pickle.loads = pickle.load = pickle._loads = pickle._load = pickle._Unpickler.load = poisoned
pickle.Unpickler = PoisonedUnpickler
pysyncobj.pickle.loads = pysyncobj.pickle.load = poisoned

import importlib, pkgutil
import raftstore
for module in pkgutil.walk_packages(raftstore.__path__, "raftstore."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
