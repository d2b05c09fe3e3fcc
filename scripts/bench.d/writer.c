// SPDX-License-Identifier: GPL-2.0-only
#define _GNU_SOURCE
#include <err.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "ksm.h"
#include "workload.h"
#include "writer.h"

#define MEMORY_PAGES	(16384UL)	/* 64 MiB, more than a cache holds */
#define WRITES		64		/* of one turn */
#define PERIOD_NS	1000000ULL	/* a turn is due each millisecond */
#define WRITER_NUMBER	9999		/* no process of a workload has it */

/* Times are counted in buckets, 16 for each doubling: exact within 5 %. */
#define BUCKETS		(64 * 16)

struct histogram {
	unsigned long count[BUCKETS];
	unsigned long total;
	uint64_t max;
};

static int to_writer[2], from_writer[2];
static pid_t writer;

static unsigned int bucket_of(uint64_t value)
{
	unsigned int log;

	if (value < 16)
		return value;
	log = 63 - __builtin_clzll(value);
	return log * 16 + ((value >> (log - 4)) & 15);
}

/* The upper end of a bucket. */
static double bucket_end(unsigned int bucket)
{
	unsigned int log = bucket / 16;

	if (bucket < 16)
		return bucket + 1;
	return (16 + bucket % 16 + 1) * (double)(1ULL << (log - 4));
}

static void note(struct histogram *h, uint64_t value)
{
	h->count[bucket_of(value)]++;
	h->total++;
	if (value > h->max)
		h->max = value;
}

static double percentile(const struct histogram *h, double percent)
{
	unsigned long left = h->total * percent / 100;

	for (unsigned int i = 0; i < BUCKETS; i++) {
		if (h->count[i] >= left)
			return bucket_end(i);
		left -= h->count[i];
	}
	return h->max;
}

/* The processor's own counter, which takes no system call. */
static uint64_t ticks(void)
{
	unsigned int cpu;
	uint64_t now = __rdtscp(&cpu);

	_mm_lfence();
	return now;
}

static void wait_until(uint64_t ns)
{
	struct timespec t = { .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static void write_some(volatile char *memory, struct histogram *times)
{
	static uint64_t random = 1;

	for (int i = 0; i < WRITES; i++) {
		volatile char *at;
		uint64_t begun;

		random = random * 6364136223846793005ULL + 1442695040888963407ULL;
		at = memory + (random >> 33) % MEMORY_PAGES * PAGE_BYTES + i * 8;
		begun = ticks();
		*at = *at + 1;
		note(times, ticks() - begun);
	}
}

static struct writer_times measure(char *memory, double seconds)
{
	static struct histogram writes, late;
	uint64_t begun = clock_ns(), begun_ticks = ticks();
	uint64_t due = begun, end = begun + seconds * 1e9;
	struct writer_times times;
	double ns_per_tick;

	while (due < end) {
		uint64_t now;

		due += PERIOD_NS;
		wait_until(due);
		write_some(memory, &writes);
		now = clock_ns();
		note(&late, now - due);
		/* A turn that was missed altogether is not made up for. */
		while (due + PERIOD_NS < now)
			due += PERIOD_NS;
	}
	ns_per_tick = (double)(clock_ns() - begun) / (ticks() - begun_ticks);
	times.write_p99 = percentile(&writes, 99) * ns_per_tick;
	times.write_max = writes.max * ns_per_tick;
	times.late_p99 = percentile(&late, 99);
	times.late_max = late.max;
	return times;
}

static void __attribute__((noreturn)) be_writer(double seconds)
{
	struct writer_times times;
	char *memory, byte = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	run_on(0);
	memory = mmap(NULL, MEMORY_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		err(1, "mmap");
	for (unsigned long i = 0; i < MEMORY_PAGES; i++)
		fill_unique((uint64_t *)(memory + i * PAGE_BYTES), i, WRITER_NUMBER);
	if (madvise(memory, MEMORY_PAGES * PAGE_BYTES, MADV_MERGEABLE))
		err(1, "MADV_MERGEABLE");
	if (write(from_writer[1], &byte, 1) != 1 || read(to_writer[0], &byte, 1) != 1)
		err(1, "pipe");
	times = measure(memory, seconds);
	if (write(from_writer[1], &times, sizeof(times)) != sizeof(times))
		err(1, "pipe");
	_exit(0);
}

void writer_start(double seconds)
{
	char byte;

	if (pipe(to_writer) || pipe(from_writer))
		err(1, "pipe");
	writer = fork();
	if (writer < 0)
		err(1, "fork");
	if (!writer)
		be_writer(seconds);
	if (read(from_writer[0], &byte, 1) != 1)
		errx(1, "the writer failed");
}

struct writer_times writer_run(void)
{
	struct writer_times times;

	if (write(to_writer[1], "", 1) != 1 ||
	    read(from_writer[0], &times, sizeof(times)) != sizeof(times))
		errx(1, "the writer failed");
	waitpid(writer, NULL, 0);
	close(to_writer[0]);
	close(to_writer[1]);
	close(from_writer[0]);
	close(from_writer[1]);
	return times;
}
