/* What the C code of tapsets/pystap/totals.stp needs of the kernel, as far as one thread that plays all threads can tell,
 * so that it runs as a program: tests/integration/kernel_sums.rs feeds it what it feeds pystap's own analysis. */

#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef struct { int v; } atomic_t;
typedef struct { long v; } atomic64_t;
#define ATOMIC_INIT(number) { number }
#define ATOMIC64_INIT(number) { number }
#define atomic_cmpxchg(it, old, new) __sync_val_compare_and_swap(&(it)->v, old, new)
#define atomic_set_release(it, new) ((it)->v = (new))
#define atomic64_inc(it) ((it)->v++)
#define atomic64_dec(it) ((it)->v--)
#define atomic64_read(it) ((it)->v)
#define READ_ONCE(it) (it)
#define WRITE_ONCE(it, new) ((it) = (new))
#define smp_load_acquire(it) (*(it))
#define smp_store_release(it, new) (*(it) = (new))
#define likely(it) (it)
#define unlikely(it) (it)
#define __user
/* One thread waits for nobody. */
#define cpu_relax() __builtin_trap()
#define pagefault_disable()
#define pagefault_enable()

static struct { int pid, tgid; } one, *current = &one;
static uint64_t clock_now;
static long unmeasured;
static int64_t STAP_RETVALUE;

#define ktime_get() clock_now
#define ktime_to_ns(time) (time)

static inline int fls64(uint64_t number)
{
	return number ? 64 - __builtin_clzll(number) : 0;
}

/* Addresses of names are numbers of functions here; that of the shim behind a class call is 1. */
static long strncpy_from_user(char *to, const char *from, long room)
{
	(void)room;
	if ((uintptr_t)from != 1)
		return -1;
	strcpy(to, "__init__");
	return 8;
}

static int pystap_find(int pid) { (void)pid; return 0; }
static uint64_t pystap_look_at(int64_t first, int64_t second) { (void)second; return (uint64_t)first * 4; }
static uint64_t pystap_look_named_at(int64_t file, int64_t name, int64_t qualname)
{
	(void)name;
	(void)qualname;
	return (uint64_t)file * 4;
}
static void pystap_count_unmeasured(void) { unmeasured++; }
