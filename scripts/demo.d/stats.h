/* SPDX-License-Identifier: GPL-2.0-only */
/* What the kernel says about memory and KSM. Every error ends the program. */
#ifndef DEMO_STATS_H
#define DEMO_STATS_H

/**
 * struct stats - one look at the system
 * @seconds: time since boot
 * @shared: pages_shared
 * @sharing: pages_sharing, that is pages saved
 * @passes: full_scans
 * @saved: MiB that @sharing comes to
 * @total: MemTotal in MiB
 * @available: MemAvailable in MiB
 * @cpu: CPU seconds of all ksmd threads so far
 */
struct stats {
	double seconds;
	unsigned long shared;
	unsigned long sharing;
	unsigned long passes;
	double saved;
	double total;
	double available;
	double cpu;
};

struct stats stats_now(void);

#endif
