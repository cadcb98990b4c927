"""Runs a program that is hard on guests: run.py LIBRARY MODE PROGRAM DIRECTORY [ARGUMENT...].

MODE is "without" the agent, with a "dormant" one, or a "live" one: then the program begins when a session does. The name of
the agent's socket is put into the file "socket" beside the directory, to which the program writes what it has to say."""

import os
import sys


def main():
    library, mode, program, directory = sys.argv[1:5]
    if mode != "without":
        import importlib.machinery
        import importlib.util
        import time

        loader = importlib.machinery.ExtensionFileLoader("_pystap_agent", library)
        spec = importlib.util.spec_from_file_location("_pystap_agent", library, loader=loader)
        agent = importlib.util.module_from_spec(spec)
        loader.exec_module(agent)
        sys.modules["_pystap_agent"] = agent
        agent.start(True)
        place = directory + ".socket"
        with open(place + ".new", "w") as file:
            file.write(agent.status()["socket"])
        os.rename(place + ".new", place)
        while mode == "live" and not agent.status()["session"]:
            time.sleep(0.001)
    sys.argv[:] = [program] + sys.argv[4:]
    os.chdir(directory)
    with open(program) as file:
        code = compile(file.read(), program, "exec")
    space = sys.modules["__main__"].__dict__
    space["__file__"] = program
    exec(code, space)


main()
