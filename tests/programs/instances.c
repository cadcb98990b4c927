/* A program that looks like an interpreter of Python 3.5 with one of the patches that have the probes about instances, and
   hits them as such an interpreter does: the class, the module that it belongs to, and only while somebody traces.

     instances COUNT      makes and unmakes as many objects, and says so */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "probes.h"

/* What every CPython carries: the name of a variable, the tag of its caches, its version. */
__attribute__((used)) static const char looks[] = "PYTHONHASHSEED\0\0cpython-35\0\0" "3.5.10\0";

#define MADE(name, it) HIT(name, "8@%0 8@%1", "r"((it)->class), "r"((it)->module))

SEMAPHORE(instance__new__start);
SEMAPHORE(instance__new__done);
SEMAPHORE(instance__delete__start);
SEMAPHORE(instance__delete__done);

struct object {
	const char *class, *module;
	struct object *owned;
};

static void make(const struct object *it)
{
	MADE(instance__new__start, it);
	MADE(instance__new__done, it);
}

/* With what it owns: others are unmade between the beginning and the end. */
static void unmake(const struct object *it)
{
	MADE(instance__delete__start, it);
	if (it->owned)
		unmake(it->owned);
	MADE(instance__delete__done, it);
}

int main(int count, char **arguments)
{
	int objects = count > 1 ? atoi(arguments[1]) : 1;
	/* An interpreter passes a question mark for a module that it does not know. Its names are in memory that it has written
	   to: SystemTap's probes cannot wait for a page of the file that nobody has read yet. */
	struct object connection = {strdup("Connection"), strdup("?"), NULL};
	struct object server = {strdup("Server"), strdup("app.servers"), &connection};

	for (int i = 0; i < objects; i++) {
		make(&server);
		make(&connection);
		unmake(&server);
	}
	printf("{\"objects\":%d}\n", objects);
	return 0;
}
