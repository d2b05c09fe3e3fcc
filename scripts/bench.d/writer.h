/* SPDX-License-Identifier: GPL-2.0-only */
/* A thread beside ksmd, which finds out how the scan delays its writes. */
#ifndef BENCH_WRITER_H
#define BENCH_WRITER_H

/**
 * struct writer_times - what it found, in nanoseconds
 * @write_p99: 99 % of single writes took less
 * @write_max: the longest write
 * @late_p99: 99 % of its turns, due each millisecond, were done so long after
 * @late_max: the latest turn
 */
struct writer_times {
	double write_p99;
	double write_max;
	double late_p99;
	double late_max;
};

/*
 * Starts a process with mergeable memory of its own on CPU 0, which waits for
 * writer_run() and then writes for @seconds.
 */
void writer_start(double seconds);
struct writer_times writer_run(void);

#endif
