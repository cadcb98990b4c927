# Put on PYTHONPATH by `pystap trace -- COMMAND`: starts pystap's agent in every Python that the command becomes or starts,
# then gives way to the user's own sitecustomize. Also there as usercustomize, for where somebody else's sitecustomize comes
# first. Runs under any Python, old ones included, and never fails one.
import os
import sys


def _pystap():
    follow = os.environ.get("PYSTAP_AGENT")
    if not follow or sys.version_info < (3, 9) or sys.implementation.name != "cpython":
        return
    if "musl" in getattr(sys.implementation, "_multiarch", ""):
        return
    from importlib.machinery import ExtensionFileLoader
    from importlib.util import module_from_spec, spec_from_loader

    name = "_pystap_agent"
    agent = sys.modules.get(name)
    if agent is None:
        library = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "libpystap_agent.so")
        loader = ExtensionFileLoader(name, library)
        agent = module_from_spec(spec_from_loader(name, loader))
        loader.exec_module(agent)
        sys.modules[name] = agent
    # Where an agent was installed, ours sleeps in its place when the session has ended.
    installed = any(os.path.isfile(os.path.join(entry, "pystap_agent.pth")) for entry in sys.path)
    agent.start(installed, follow)


try:
    _pystap()
except Exception:
    # pystap says which processes never joined; their own output stays as it is.
    pass



def _remove_bytecode():
    if sys.version_info >= (3, 4):
        from importlib.util import cache_from_source

        compiled = cache_from_source(os.path.abspath(__file__))
    else:
        compiled = os.path.splitext(os.path.abspath(__file__))[0] + ".pyc"
    os.unlink(compiled)
    os.rmdir(os.path.dirname(compiled))


try:
    _remove_bytecode()
except Exception:
    # There is none, or it is not ours to remove.
    pass

# As if we had never been here: our directory leaves the path, and whoever comes next on it has our name.
_ours = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != _ours]
_name = __name__
_self = sys.modules.pop(_name, None)
try:
    __import__(_name)
except ImportError as _error:
    if getattr(_error, "name", _name) != _name:
        raise
    if _self is not None:
        sys.modules[_name] = _self
