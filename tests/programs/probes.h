/* Probes of provider "python" for programs that look like an interpreter: hit only while somebody traces. */

/* A probe's semaphore. */
#define SEMAPHORE(name) __attribute__((used, section(".probes"))) volatile unsigned short name##_semaphore

/* The probe, with its operands as they stand in its note, and what they are. */
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
