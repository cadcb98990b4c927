# The tests put this directory on PYTHONPATH: every Python that a service starts has a dormant agent, as one has that
# `pystap agent install` has set up.
import os
import sys


def load(library):
    import importlib.machinery
    import importlib.util

    loader = importlib.machinery.ExtensionFileLoader("_pystap_agent", library)
    spec = importlib.util.spec_from_file_location("_pystap_agent", library, loader=loader)
    agent = importlib.util.module_from_spec(spec)
    loader.exec_module(agent)
    sys.modules["_pystap_agent"] = agent
    agent.start(True)


load(os.environ["PYSTAP_TEST_LIBRARY"])
