// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pages that relatives share by fork before they merge: what becomes of their use, as
 * reclaim sees it.
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

/* Until all are on the active list. */
static bool heat(struct ksm_worker *worker)
{
	return ksm_wait_until(use(worker) && flagged(worker, KPF_ACTIVE) == PAGES);
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

TEST_HARNESS_MAIN
