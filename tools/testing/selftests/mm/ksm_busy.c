// SPDX-License-Identifier: GPL-2.0-only
/*
 * A process that changes its mappings all the time, so that ksmd cannot have its locks:
 * passes go on without it. What they forget, as all pages were seen, must not keep its
 * pages apart from others for good.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#include "ksm_util.h"
#include "vm_util.h"

#define SEED		1000
#define MOST_THREADS	2
#define LEAST_PAGES	1024UL
#define MOST_PAGES	(LEAST_PAGES << 11)
#define BUSY_PASSES	6
#define SETTLED_PASSES	6
#define TWINS		64
#define MAP_MILLISECS	5000		/* a slow machine needs no larger mapping */

FIXTURE(busy)
{
	struct ksm_test ksm;
	char *map;
	size_t pages;		/* of @map; all are the zero page */
	pthread_t thread[MOST_THREADS];
	bool stop;
};

FIXTURE_VARIANT(busy)
{
	bool is_late;		/* it has the new pages, not those that have settled */
	unsigned int threads;
	unsigned int millisecs;	/* that a change of the mapping takes, at least */
	bool pauses;		/* between two changes */
	const char *smart_scan;
};

/* Nobody gets its locks: the threads take turns. */
FIXTURE_VARIANT_ADD(busy, old_process) {
	.threads = 2,
	.millisecs = 100,
};

FIXTURE_VARIANT_ADD(busy, late_process) {
	.is_late = true,
	.threads = 2,
	.millisecs = 100,
};

/* Who waits for long gets its locks, but not who tries for two milliseconds. */
FIXTURE_VARIANT_ADD(busy, late_process_with_pauses) {
	.is_late = true,
	.threads = 1,
	.millisecs = 5,
	.pauses = true,
};

FIXTURE_VARIANT_ADD(busy, late_process_with_pauses_and_smart_scan) {
	.is_late = true,
	.threads = 1,
	.millisecs = 5,
	.pauses = true,
	.smart_scan = "1",
};

FIXTURE_SETUP(busy)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	/* Else ksmd runs when nobody else does, and finds all locks free. */
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "needs two CPUs");
	ASSERT_TRUE(ksm_begin(&self->ksm));
	if (variant->smart_scan)
		ksm_set("smart_scan", variant->smart_scan);
}

FIXTURE_TEARDOWN_PARENT(busy)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

#define NEVER	UINT64_MAX

static bool change_mapping(FIXTURE_DATA(busy) *self)
{
	const size_t size = self->pages * psize();

	return !mprotect(self->map, size, PROT_READ) &&
	       !mprotect(self->map, size, PROT_READ | PROT_WRITE);
}

/* How long that takes when it is not held up, or NEVER. */
static uint64_t time_to_change(FIXTURE_DATA(busy) *self)
{
	uint64_t least = NEVER;

	for (unsigned int i = 0; i < 2; i++) {
		uint64_t start = ksm_now_millisecs(), took;

		if (!change_mapping(self))
			return NEVER;
		took = ksm_now_millisecs() - start;
		least = took < least ? took : least;
	}
	return least;
}

/* So large that to change it takes so long, or as large as it may be. */
static bool map_busy(FIXTURE_DATA(busy) *self, unsigned int millisecs)
{
	const uint64_t start = ksm_now_millisecs();
	uint64_t took;

	self->map = mmap(NULL, MOST_PAGES * psize(), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (self->map == MAP_FAILED)
		return false;
	/* Not in all kernels. */
	madvise(self->map, MOST_PAGES * psize(), MADV_NOHUGEPAGE);
	self->pages = LEAST_PAGES / 2;
	do {
		self->pages *= 2;
		if (madvise(self->map, self->pages * psize(), MADV_POPULATE_READ))
			return false;
		took = time_to_change(self);
	} while (self->pages < MOST_PAGES && took < 2 * millisecs &&
		 ksm_now_millisecs() - start < MAP_MILLISECS);
	return took != NEVER;
}

/* Returns NULL if the mapping could not be changed. */
static void *keep_busy(void *fixture)
{
	FIXTURE_DATA(busy) *self = fixture;
	bool good = true;

	while (good && !__atomic_load_n(&self->stop, __ATOMIC_RELAXED))
		good = change_mapping(self);
	return good ? self : NULL;
}

static void *keep_busy_with_pauses(void *fixture)
{
	FIXTURE_DATA(busy) *self = fixture;
	bool good = true;

	while (good && !__atomic_load_n(&self->stop, __ATOMIC_RELAXED)) {
		good = change_mapping(self);
		ksm_pause();
	}
	return good ? self : NULL;
}

static long start_threads(FIXTURE_DATA(busy) *self, unsigned int threads, bool pauses)
{
	for (unsigned int i = 0; i < threads; i++)
		if (pthread_create(&self->thread[i], NULL,
				   pauses ? keep_busy_with_pauses : keep_busy, self))
			return -EAGAIN;
	return 0;
}

static long join_threads(FIXTURE_DATA(busy) *self, unsigned int threads)
{
	bool good = true;

	__atomic_store_n(&self->stop, true, __ATOMIC_RELAXED);
	for (unsigned int i = 0; i < threads; i++) {
		void *result;

		good = !pthread_join(self->thread[i], &result) && result && good;
	}
	return good ? 0 : -EIO;
}

static long job_start(struct ksm_worker *worker, long fixture, long threads, long pauses)
{
	return start_threads((void *)fixture, threads, pauses);
}

static long job_join(struct ksm_worker *worker, long fixture, long threads, long unused)
{
	return join_threads((void *)fixture, threads);
}

static long job_map_busy(struct ksm_worker *worker, long fixture, long millisecs, long unused)
{
	return map_busy((void *)fixture, millisecs) ? 0 : -errno;
}

static long job_map_twins(struct ksm_worker *worker, long unused, long unused2, long unused3)
{
	worker->map = ksm_map_registered(TWINS);
	if (!worker->map)
		return -errno;
	worker->pages = TWINS;
	ksm_fill(worker->map, TWINS, SEED, 1);
	return 0;
}

TEST_F(busy, has_its_pages_merged_when_it_comes_to_rest)
{
	const long threads = variant->threads, pauses = variant->pauses;
	const long millisecs = variant->millisecs;
	struct ksm_worker *late = &self->ksm.workers[0];
	char *map;

	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, NULL, 1));
	ASSERT_TRUE(variant->is_late ? !ksm_ask(late, job_map_busy, (long)self, millisecs, 0) :
				       map_busy(self, millisecs));
	map = ksm_map_registered(TWINS);
	ASSERT_NE(NULL, map);
	ksm_fill(map, TWINS, SEED, 1);
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_passes(SETTLED_PASSES));
	ASSERT_TRUE(variant->is_late || !start_threads(self, threads, pauses));
	ASSERT_EQ(0, ksm_ask(late, job_map_twins, 0, 0, 0));
	ASSERT_TRUE(!variant->is_late || !ksm_ask(late, job_start, (long)self, threads, pauses));
	/* One by one, as each wait has its limit. */
	for (unsigned int i = 0; i < BUSY_PASSES / 2; i++)
		EXPECT_TRUE(ksm_wait_passes(1));
	EXPECT_EQ(0, variant->is_late ? ksm_ask(late, job_join, (long)self, threads, 0) :
					join_threads(self, threads));
	TH_LOG("merged while it was busy: %zu", ksm_count_merged(getpid(), map, TWINS));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(TWINS, ksm_count_merged(getpid(), map, TWINS));
	EXPECT_EQ(-1, ksm_first_wrong(map, TWINS, SEED, 1));
	EXPECT_EQ(-1, ksm_ask(late, ksm_job_first_wrong, SEED, 1, 0));
}

TEST_HARNESS_MAIN
