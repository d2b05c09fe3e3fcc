/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Random values that can be had again.
 *
 * In the environment: KSM_FUZZ_SEED=N repeats a run that printed N, but for what is
 * random in addresses (see setarch -R); KSM_FUZZ_ROUNDS=1000000 makes a long one. What
 * is on a kernel's command line and unknown to it gets into the environment, too.
 */
#ifndef KSM_FUZZ_H
#define KSM_FUZZ_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/random.h>
#include "kselftest.h"

/* Some seconds in an emulated machine. */
#define FUZZ_ROUNDS	5000

/* Seconds; for a million rounds on a busy machine. */
#define FUZZ_TIMEOUT	(4 * 3600)

struct fuzz {
	uint64_t seed;
	uint64_t state;
	unsigned long rounds;
	unsigned long round;
};

static inline void fuzz_begin(struct fuzz *fuzz)
{
	const char *seed = getenv("KSM_FUZZ_SEED"), *rounds = getenv("KSM_FUZZ_ROUNDS");

	if (getrandom(&fuzz->seed, sizeof(fuzz->seed), 0) != sizeof(fuzz->seed))
		fuzz->seed = (uintptr_t)fuzz;
	fuzz->seed %= 1000000000;	/* to be typed by people */
	if (seed)
		fuzz->seed = strtoull(seed, NULL, 0);
	fuzz->state = fuzz->seed;
	fuzz->rounds = rounds ? strtoul(rounds, NULL, 0) : FUZZ_ROUNDS;
}

static inline uint64_t fuzz_next(struct fuzz *fuzz)
{
	uint64_t x = fuzz->state += 0x9e3779b97f4a7c15ULL;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static inline size_t fuzz_below(struct fuzz *fuzz, size_t limit)
{
	return fuzz_next(fuzz) % limit;
}

/* Once in @times. */
static inline bool fuzz_chance(struct fuzz *fuzz, size_t times)
{
	return !fuzz_below(fuzz, times);
}

/* A number of any size, or one where something may begin or end. */
static inline uint64_t fuzz_number(struct fuzz *fuzz)
{
	static const uint64_t borders[] = {
		0, 2, 100, 256, 500, 4096, INT_MAX, UINT_MAX, LONG_MAX, ULONG_MAX,
	};
	uint64_t delta = fuzz_below(fuzz, 5) - 2ULL;

	switch (fuzz_below(fuzz, 3)) {
	case 0:
		return borders[fuzz_below(fuzz, ARRAY_SIZE(borders))] + delta;
	case 1:
		return (1ULL << fuzz_below(fuzz, 64)) + delta;
	default:
		return fuzz_next(fuzz) >> fuzz_below(fuzz, 64);
	}
}

#endif
