/* Reads marks, a line each, and prints the sums: see tests/integration/kernel_sums.rs. The file of the tapset's C code goes
 * between kernel.h and this one. */

int main(void)
{
	char kind;
	long function;
	unsigned long context;
	int line, flags, i, bits;
	uint64_t collections = 0;

	while (scanf(" %c %lu %d %d %ld %d %lu %d", &kind, &clock_now, &one.tgid, &one.pid, &function, &line, &context,
		     &flags) == 8) {
		switch (kind) {
		case 'C': pystap_enter(function, function, line); break;
		case 'R': pystap_leave(function, function, line); break;
		case 'c': pystap_enter_told(function, function, function, line, context, flags); break;
		case 'r': pystap_leave_told(function, function, function, context); break;
		case 'G': pystap_collection_begins(); break;
		case 'g': pystap_collection_ends(); break;
		case 'T': pystap_thread_ends(); break;
		case 'E': pystap_threads_end(); break;
		case 'S': pystap_totals_begin(0); break;
		case 'Z': pystap_totals_zero(); break;
		}
		if (kind != 'S' && kind != 'Z' && STAP_RETVALUE & 1)
			return 2;
	}
	pystap_totals_begin(1);
	for (i = 0; i <= PYSTAP_ROWS; i++) {
		struct pystap_row *row = &pystap_rows[i];

		if (row->key == PYSTAP_COLLECTIONS)
			collections += row->timed_ns;
		else if (row->calls || row->unmatched || row->self || row->cumulative) {
			printf("row %d %lu %d %lu %lu %lu %lu %lu %lu %lu %lu %lu", row->tgid, row->key / 4, row->line,
				row->calls, row->unmatched, row->self, row->cumulative, row->timed, row->timed_ns,
				row->exact_ns, row->shortest, row->longest);
			for (bits = 0; bits < PYSTAP_BUCKETS; bits++)
				printf(" %lu", row->buckets[bits]);
			printf("\n");
		}
	}
	printf("rest %ld %ld %lu\n", pystap_open_ended.v + pystap_unasked.v, unmeasured, collections);
	return 0;
}
