/* SPDX-License-Identifier: GPL-2.0-only */
/* What the benchmark asks of KSM and of the machine. Every error ends the program. */
#ifndef BENCH_KSM_H
#define BENCH_KSM_H

#include <stdint.h>

#define PAGE_BYTES	4096UL

/**
 * struct stand - how far KSM is, seen at once
 * @ns: the machine's clock; CPU time of ksmd, where it has a CPU of its own
 * @passes: full_scans
 * @merged: pages saved: pages_sharing and ksm_zero_pages
 */
struct stand {
	uint64_t ns;
	long passes;
	long merged;
};

uint64_t clock_ns(void);

/* Finds the KSM threads and the files that are read often. */
void ksm_open(void);
void ksm_set(const char *name, const char *value);
struct stand ksm_stand(void);

/* All KSM threads run on this CPU only. */
void ksm_run_on(int cpu);

/* CPU time of all KSM threads as the scheduler counts it, in ticks of 10 ms. */
uint64_t ksm_sched_ns(void);

void run_on(int cpu);

/* A line of /proc/meminfo in KiB. */
long meminfo_kib(const char *name);

/* A line of /proc/vmstat. */
long vmstat(const char *name);

/* Free pages in KiB, those in per-CPU lists too; waits until it stays the same. */
long settled_free_kib(void);

/*
 * Touches all free memory once, so that the host has given it to the machine
 * before anything is measured.
 */
void touch_free_memory(void);

#endif
