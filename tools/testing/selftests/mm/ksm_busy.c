// SPDX-License-Identifier: GPL-2.0-only
/*
 * A process whose threads change its mappings all the time, so that ksmd cannot have its
 * locks: passes go on without it. What they forget, as all pages were seen, must not
 * keep its pages apart from others for good.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include "ksm_util.h"
#include "vm_util.h"

#define SEED		1000
#define BUSY_THREADS	2
#define BUSY_MILLISECS	100		/* ksmd tries for a fifth of that */
#define LEAST_BUSY_PAGES	16384UL
#define MOST_BUSY_PAGES		(LEAST_BUSY_PAGES << 7)
#define BUSY_PASSES	6
#define SETTLED_PASSES	6
#define TWINS		64
#define TIMEOUT		120		/* seconds */

FIXTURE(busy)
{
	struct ksm_test ksm;
	char *map;
	size_t pages;		/* of @map; all are the zero page */
	bool stop;
};

FIXTURE_SETUP(busy)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

FIXTURE_TEARDOWN_PARENT(busy)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

static bool change_mapping(FIXTURE_DATA(busy) *self)
{
	const size_t size = self->pages * psize();

	return !mprotect(self->map, size, PROT_READ) &&
	       !mprotect(self->map, size, PROT_READ | PROT_WRITE);
}

/* So large that to change it takes long, or as large as it may be. */
static bool map_busy(FIXTURE_DATA(busy) *self)
{
	uint64_t start;

	self->map = mmap(NULL, MOST_BUSY_PAGES * psize(), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (self->map == MAP_FAILED)
		return false;
	/* Not in all kernels. */
	madvise(self->map, MOST_BUSY_PAGES * psize(), MADV_NOHUGEPAGE);
	self->pages = LEAST_BUSY_PAGES / 2;
	do {
		self->pages *= 2;
		if (madvise(self->map, self->pages * psize(), MADV_POPULATE_READ))
			return false;
		start = ksm_now_millisecs();
		if (!change_mapping(self))
			return false;
	} while (self->pages < MOST_BUSY_PAGES &&
		 ksm_now_millisecs() - start < 2 * BUSY_MILLISECS);
	return true;
}

/* Has the mmap_lock for writing, or waits for it, nearly all the time. */
static void *keep_busy(void *fixture)
{
	FIXTURE_DATA(busy) *self = fixture;
	bool good = true;

	while (good && !__atomic_load_n(&self->stop, __ATOMIC_RELAXED))
		good = change_mapping(self);
	return good ? self : NULL;
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

TEST_F_TIMEOUT(busy, process_has_its_pages_merged_when_it_comes_to_rest, TIMEOUT)
{
	struct ksm_worker *other = &self->ksm.workers[0];
	pthread_t thread[BUSY_THREADS];
	char *map;

	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, NULL, 1));
	ASSERT_TRUE(map_busy(self));
	map = ksm_map_registered(TWINS);
	ASSERT_NE(NULL, map);
	ksm_fill(map, TWINS, SEED, 1);
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_passes(SETTLED_PASSES));
	for (size_t i = 0; i < BUSY_THREADS; i++)
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, keep_busy, self));
	ASSERT_EQ(0, ksm_ask(other, job_map_twins, 0, 0, 0));
	EXPECT_TRUE(ksm_wait_passes(BUSY_PASSES));
	__atomic_store_n(&self->stop, true, __ATOMIC_RELAXED);
	for (size_t i = 0; i < BUSY_THREADS; i++) {
		void *result;

		ASSERT_EQ(0, pthread_join(thread[i], &result));
		EXPECT_NE(NULL, result);
	}
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(TWINS, ksm_count_merged(getpid(), map, TWINS));
	EXPECT_EQ(-1, ksm_first_wrong(map, TWINS, SEED, 1));
	EXPECT_EQ(-1, ksm_ask(other, ksm_job_first_wrong, SEED, 1, 0));
}

TEST_HARNESS_MAIN
