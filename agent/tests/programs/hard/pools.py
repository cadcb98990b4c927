"""Pools of processes in every way that multiprocessing starts them: pools.py DIRECTORY."""

import multiprocessing
import warnings


def square(number):
    return number * number


if __name__ == "__main__":
    # Of a program with threads, so also of one whose pool is ending, 3.12 says so at a fork.
    warnings.simplefilter("ignore")
    for method in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        process = context.Process(target=queue.put, args=("from a process",))
        process.start()
        with open(method, "w") as file:
            file.write("%s\n" % queue.get())
            process.join()
            file.write("%d\n" % process.exitcode)
            if method == "fork":
                with context.Pool(2) as pool:
                    file.write("%r\n" % pool.map(square, range(100)))
