/* A program that looks like an interpreter of Python 2.7.9 with the patch that passes the arguments of calls as text, and hits
   its probes as such an interpreter does: only while somebody traces.

     arguments COUNT      calls serve(NUMBER, retries=NUMBER % 3) as often, and says so */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "probes.h"

/* What every CPython carries: the name of a variable, the tag of its caches, its version. */
__attribute__((used)) static const char looks[] = "PYTHONHASHSEED\0\0cpython-27\0\0" "2.7.9\0";

SEMAPHORE(function__entry);
SEMAPHORE(function__return);

int main(int count, char **arguments)
{
	int calls = count > 1 ? atoi(arguments[1]) : 1;
	/* In memory that it has written to: SystemTap's probes cannot wait for a page of the file that nobody has read yet. */
	char *file = strdup("/srv/app.py"), *function = strdup("serve"), *positional = malloc(32), *named = malloc(32);

	for (int i = 0; i < calls; i++) {
		snprintf(positional, 32, "(%d,)", i);
		snprintf(named, 32, "{'retries': %d}", i % 3);
		HIT(function__entry, "8@%0 8@%1 -4@%2 8@%3 8@%4", "r"(file), "r"(function), "r"(10), "r"(positional), "r"(named));
		HIT(function__return, "8@%0 8@%1 -4@%2", "r"(file), "r"(function), "r"(10));
	}
	printf("{\"calls\":%d}\n", calls);
	return 0;
}
