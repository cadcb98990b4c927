/* Nothing: what tapsets/pystap/totals.stp needs of the kernel is in ../kernel.h. */
