# Run once in a process that `pystap trace -p` attaches to, in whichever thread comes first: loads the agent. What goes
# wrong is written for pystap to read; nothing is printed, nothing is left.
def _pystap(library, follow, report):
    import sys

    try:
        name = "_pystap_agent"
        agent = sys.modules.get(name)
        if agent is None:
            from importlib.machinery import ExtensionFileLoader
            from importlib.util import module_from_spec, spec_from_loader

            loader = ExtensionFileLoader(name, library)
            agent = module_from_spec(spec_from_loader(name, loader))
            loader.exec_module(agent)
            sys.modules[name] = agent
        agent.start(False, follow)
    except BaseException as error:
        try:
            import os

            # A FIFO: nobody is waited for, neither to read it nor to make room in it.
            file = os.open(report, os.O_WRONLY | os.O_NONBLOCK)
            try:
                text = type(error).__name__ + ": " + str(error)
                os.write(file, text.encode("utf-8", "replace")[:4000])
            finally:
                os.close(file)
        except OSError:
            pass


_pystap(@LIBRARY@, @FOLLOW@, @REPORT@)
