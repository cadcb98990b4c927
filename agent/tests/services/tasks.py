"""A queue of tasks in the directory where it is started. Each writes what it has worked out into a file of its own."""

import os

import celery

for name in ("queue", "done"):
    os.makedirs(name, exist_ok=True)
app = celery.Celery("tasks", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": "queue",
    "data_folder_out": "queue",
    "store_processed": False,
}


def leaf(number):
    return number * number


@app.task
def work(number):
    with open("done/%d.new" % number, "w") as file:
        file.write("%d\n" % sum(leaf(n) for n in range(number)))
    os.rename("done/%d.new" % number, "done/%d" % number)


if __name__ == "__main__":
    for number in range(10):
        work.delay(number)
