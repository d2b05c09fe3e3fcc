/* SPDX-License-Identifier: GPL-2.0-only */
/* Memory to measure: what is in it, and the processes that hold it. */
#ifndef BENCH_WORKLOAD_H
#define BENCH_WORKLOAD_H

#include <stdbool.h>
#include <stdint.h>

/**
 * struct workload - what each process holds and does
 * @name: as on the command line
 * @fill: fills page @i of process @who; false: left untouched
 * @rewrite: writes to pages, called ten times a second; or NULL
 * @processes: how many; 0: one for each MiB, at most MAX_PROCESSES
 * @spread: address space for each byte that is asked for
 */
struct workload {
	const char *name;
	bool (*fill)(uint64_t *page, unsigned long i, unsigned int who);
	void (*rewrite)(uint64_t *map, unsigned long pages, unsigned int who);
	unsigned int processes;
	unsigned int spread;
};

#define MAX_PROCESSES 500

/* Ends the program when there is none of that name. */
const struct workload *workload_find(const char *name);

/*
 * Starts the processes, which fill their memory; returns the number of pages
 * that are present. The second call makes the memory mergeable.
 */
unsigned long workload_start(const struct workload *load, unsigned long mib);
void workload_register(void);
void workload_stop(void);

/* A page that no other is equal to. */
bool fill_unique(uint64_t *page, unsigned long i, unsigned int who);

#endif
