// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pages that relatives share by fork before they merge: what becomes of their use, as
 * reclaim sees it, and what is merged at all where some did not offer theirs.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include "ksm_util.h"
#include "vm_util.h"

#define PAGES	16
#define SEED	1000

#define KPF_REFERENCED	BIT_ULL(2)
#define KPF_ACTIVE	BIT_ULL(6)

FIXTURE(kin)
{
	struct ksm_test ksm;
};

FIXTURE_SETUP(kin)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

FIXTURE_TEARDOWN_PARENT(kin)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

static struct ksm_test *family;

static long job_fork(struct ksm_worker *worker, long who, long unused, long unused2)
{
	return ksm_fork_worker(family, who, worker->map, worker->pages);
}

/* A worker with PAGES pages of its own, equal or not, that it has not offered. */
static bool start(struct ksm_test *test, unsigned int who, long seed, long step)
{
	family = test;
	return ksm_fork_worker(test, who, NULL, PAGES) &&
	       !ksm_ask(&test->workers[who], ksm_job_fill, seed, step, 0);
}

static long offer(struct ksm_worker *worker)
{
	return ksm_ask(worker, ksm_job_advise, MADV_MERGEABLE, 0, 0);
}

static size_t merged(struct ksm_worker *worker)
{
	return ksm_count_merged(worker->pid, worker->map, PAGES);
}

/* How many pages have all these flags? */
static size_t flagged(struct ksm_worker *worker, uint64_t flags)
{
	size_t found = 0;

	for (size_t i = 0; i < PAGES; i++) {
		unsigned long pfn = ksm_pfn(worker->pid, worker->map + i * psize());

		found += pfn && (ksm_page_flags(pfn) & flags) == flags;
	}
	return found;
}

/* Who looks at a page through /proc uses it as far as reclaim can see. */
static bool use(struct ksm_worker *worker)
{
	char path[64], byte;
	bool good = true;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", worker->pid);
	fd = open(path, O_RDONLY);
	for (size_t i = 0; i < PAGES; i++)
		good &= pread(fd, &byte, 1, (uintptr_t)worker->map + i * psize()) == 1;
	close(fd);
	return good;
}

/* Until all are on the active list; first they leave the lists of CPUs on the way to any. */
static bool heat(struct ksm_worker *worker)
{
	return !ksm_write_text("/proc/sys/vm/drop_caches", "1") &&
	       ksm_wait_until(use(worker) && flagged(worker, KPF_ACTIVE) == PAGES);
}

TEST_F(kin, merged_page_is_in_use)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(start(&self->ksm, 0, SEED, 0));
	ASSERT_EQ(0, offer(&worker[0]));
	ASSERT_EQ(0, flagged(&worker[0], KPF_REFERENCED));
	ASSERT_EQ(0, flagged(&worker[0], KPF_ACTIVE));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(PAGES, merged(&worker[0]));
	EXPECT_EQ(PAGES, flagged(&worker[0], KPF_REFERENCED));
}

TEST_F(kin, merged_page_is_active_if_one_of_a_family_was)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(start(&self->ksm, 0, SEED, 0));
	ASSERT_TRUE(heat(&worker[0]));
	ASSERT_EQ(0, offer(&worker[0]));
	/* Neither can have it alone: a copy is merged. */
	ASSERT_EQ(1, ksm_ask(&worker[0], job_fork, 1, 0, 0));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(PAGES, merged(&worker[0]));
	ASSERT_EQ(PAGES, merged(&worker[1]));
	EXPECT_EQ(PAGES, flagged(&worker[0], KPF_ACTIVE));
}

TEST_F(kin, merged_page_becomes_active_with_others_that_are)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(start(&self->ksm, 0, SEED, 0));
	ASSERT_EQ(0, offer(&worker[0]));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(PAGES, merged(&worker[0]));
	ASSERT_EQ(0, flagged(&worker[0], KPF_ACTIVE));
	ASSERT_TRUE(start(&self->ksm, 1, SEED, 0));
	ASSERT_TRUE(heat(&worker[1]));
	ASSERT_EQ(0, offer(&worker[1]));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	ASSERT_EQ(PAGES, merged(&worker[1]));
	EXPECT_EQ(PAGES, flagged(&worker[0], KPF_ACTIVE));
}

static long first_wrong(struct ksm_worker *worker)
{
	return ksm_ask(worker, ksm_job_first_wrong, SEED, 1, 0);
}

#define EXPECT_ALL_HOLD(worker, nr)						\
do {										\
	for (unsigned int __i = 0; __i < (nr); __i++)				\
		if ((worker)[__i].pid)						\
			EXPECT_EQ(-1, first_wrong(&(worker)[__i]));		\
} while (0)

/* Worker 0 has a child, 1, and worker 2 has equal pages. */
FIXTURE(twin)
{
	struct ksm_test ksm;
};

FIXTURE_VARIANT(twin)
{
	bool is_first;		/* registered before the family */
	bool is_merged;		/* with another one's, worker 3's, before that */
	const char *smart_scan;
};

FIXTURE_VARIANT_ADD(twin, first) { .is_first = true, .smart_scan = "0" };
FIXTURE_VARIANT_ADD(twin, last) { .smart_scan = "0" };
FIXTURE_VARIANT_ADD(twin, merged) { .is_first = true, .is_merged = true, .smart_scan = "0" };
FIXTURE_VARIANT_ADD(twin, smart) { .smart_scan = "1" };
FIXTURE_VARIANT_ADD(twin, smart_merged)
{
	.is_first = true,
	.is_merged = true,
	.smart_scan = "1",
};

FIXTURE_SETUP(twin)
{
	const char *missing = ksm_missing();
	struct ksm_worker *worker = self->ksm.workers;

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_set("smart_scan", variant->smart_scan));
	ASSERT_TRUE(start(&self->ksm, 0, SEED, 1));
	ASSERT_TRUE(start(&self->ksm, 2, SEED, 1));
	if (variant->is_first)
		ASSERT_EQ(0, offer(&worker[2]));
	if (variant->is_merged) {
		ASSERT_TRUE(start(&self->ksm, 3, SEED, 1));
		ASSERT_EQ(0, offer(&worker[3]));
		ASSERT_TRUE(ksm_merge_all());
		ASSERT_EQ(PAGES, ksm_get("pages_sharing"));
	}
}

FIXTURE_TEARDOWN_PARENT(twin)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

static bool merge(struct ksm_worker *worker, bool twin_too)
{
	return !offer(&worker[0]) && (!twin_too || !offer(&worker[2])) && ksm_merge_all();
}

/* The child keeps the frames: nothing is saved as long as it lives. */
TEST_F(twin, is_not_merged_with_a_page_that_an_unregistered_child_keeps)
{
	struct ksm_worker *worker = self->ksm.workers;
	const long before = variant->is_merged ? PAGES : 0;

	ASSERT_EQ(1, ksm_ask(&worker[0], job_fork, 1, 0, 0));
	ASSERT_TRUE(merge(worker, !variant->is_first));
	EXPECT_TRUE(ksm_stays(ksm_get("pages_sharing") == before));
	EXPECT_EQ(before, ksm_get("pages_shared"));
	EXPECT_EQ(0, merged(&worker[0]));
	EXPECT_TRUE(before || ksm_get("general_profit") <= 0);
	EXPECT_ALL_HOLD(worker, 4);
	ASSERT_TRUE(ksm_end_worker(&worker[1]));
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == before + PAGES));
	EXPECT_EQ(PAGES, merged(&worker[0]));
	EXPECT_ALL_HOLD(worker, 4);
}

/* Likewise if it was offered once. */
TEST_F(twin, is_not_merged_with_a_page_that_a_child_has_withdrawn)
{
	struct ksm_worker *worker = self->ksm.workers;
	const long before = variant->is_merged ? PAGES : 0;

	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_EQ(0, offer(&worker[0]));
	ASSERT_EQ(1, ksm_ask(&worker[0], job_fork, 1, 0, 0));
	ASSERT_EQ(0, ksm_ask(&worker[1], ksm_job_advise, MADV_UNMERGEABLE, 0, 0));
	ASSERT_TRUE(merge(worker, !variant->is_first));
	EXPECT_TRUE(ksm_stays(ksm_get("pages_sharing") == before));
	EXPECT_EQ(0, merged(&worker[0]));
	EXPECT_ALL_HOLD(worker, 4);
	/* It may come back. */
	ASSERT_EQ(0, offer(&worker[1]));
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == before + 2 * PAGES));
	EXPECT_ALL_HOLD(worker, 4);
}

static void note_frames(struct ksm_worker *worker, unsigned long *pfns)
{
	for (size_t i = 0; i < PAGES; i++)
		pfns[i] = ksm_pfn(worker->pid, worker->map + i * psize());
}

/* No page is copied where one can be had alone. */
TEST_F(twin, gives_the_frame_if_a_family_shares_its_own)
{
	struct ksm_worker *worker = self->ksm.workers;
	const long before = variant->is_merged ? PAGES : 0;
	unsigned long pfns[PAGES], after[PAGES];

	ASSERT_EQ(0, offer(&worker[0]));
	ASSERT_EQ(1, ksm_ask(&worker[0], job_fork, 1, 0, 0));
	note_frames(&worker[2], pfns);
	ASSERT_TRUE(merge(worker, !variant->is_first));
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == before + 2 * PAGES));
	note_frames(&worker[0], after);
	for (size_t i = 0; i < PAGES; i++)
		EXPECT_EQ(pfns[i], after[i]);
	EXPECT_ALL_HOLD(worker, 4);
}

TEST_HARNESS_MAIN
