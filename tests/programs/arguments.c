/* A program that looks like an interpreter of Python 2.7.9 with the patch that passes the arguments of calls as text, and hits
   its probes as such an interpreter does: only while somebody traces.

     arguments COUNT      calls serve(NUMBER, retries=NUMBER % 3) as often, and says so */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What every CPython carries: the name of a variable, the tag of its caches, its version. */
__attribute__((used)) static const char looks[] = "PYTHONHASHSEED\0\0cpython-27\0\0" "2.7.9\0";

/* A probe's semaphore, and the probe with its operands. */
#define SEMAPHORE(name) __attribute__((used, section(".probes"))) volatile unsigned short name##_semaphore
#define HIT(name, operands, ...)                                                 \
	do {                                                                     \
		if (name##_semaphore)                                            \
			__asm__ volatile("990: nop\n"                            \
					 ".pushsection .note.stapsdt,\"\",@note\n" \
					 ".balign 4\n"                           \
					 ".4byte 992f-991f, 994f-993f, 3\n"      \
					 "991: .asciz \"stapsdt\"\n"             \
					 "992: .balign 4\n"                      \
					 "993: .8byte 990b, 0, " #name "_semaphore\n" \
					 ".asciz \"python\"\n"                   \
					 ".asciz \"" #name "\"\n"                \
					 ".asciz \"" operands "\"\n"             \
					 "994: .balign 4\n"                      \
					 ".popsection\n"                         \
					 :                                       \
					 : __VA_ARGS__);                         \
	} while (0)

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
