// SPDX-License-Identifier: GPL-2.0-only
/*
 * Locked memory merges like any other, and what Mlocked and Unevictable in
 * /proc/meminfo say stays exact: a merged page counts once as long as anybody locks
 * it, a copy of it counts with the lock of its owner, and all is balanced when locks,
 * mappings or processes go.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include "ksm_util.h"
#include "vm_util.h"

#define PAGES	32
#define SEED	1000
#define OTHER	2000

static char *page(char *map, size_t index)
{
	return map + index * psize();
}

static size_t merged(char *map, size_t pages)
{
	return ksm_count_merged(getpid(), map, pages);
}

static size_t frames(char *map, size_t pages)
{
	return ksm_count_frames(getpid(), map, pages);
}

static void refresh_counters(void)
{
	int fd = open("/proc/sys/vm/stat_refresh", O_WRONLY);

	/* Without it the counters are late, no more. */
	if (fd < 0)
		return;
	if (write(fd, "1", 1) < 0)
		errno = 0;
	close(fd);
}

/* Each CPU holds back some locks and unlocks, until somebody locks memory there. */
static void drain_cpus(void)
{
	cpu_set_t all, one;
	char *scratch;

	if (sched_getaffinity(0, sizeof(all), &all))
		return;
	scratch = ksm_map_pages(1);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		if (sched_setaffinity(0, sizeof(one), &one))
			continue;
		mlock(scratch, psize());
		munlock(scratch, psize());
	}
	sched_setaffinity(0, sizeof(all), &all);
	munmap(scratch, psize());
}

/* In pages. */
struct locked {
	long mlocked;
	long unevictable;
};

static struct locked locked_now(void)
{
	long kilobytes = psize() / 1024;

	drain_cpus();
	refresh_counters();
	return (struct locked) {
		.mlocked = ksm_meminfo("Mlocked") / kilobytes,
		.unevictable = ksm_meminfo("Unevictable") / kilobytes,
	};
}

/* Are there so many more locked pages than at first? */
static bool are_locked(const struct locked *first, long pages)
{
	struct locked now = locked_now();

	return now.mlocked - first->mlocked == pages &&
	       now.unevictable - first->unevictable == pages;
}

#define EXPECT_LOCKED(pages)						\
do {									\
	EXPECT_TRUE(ksm_wait_until(are_locked(&self->first, pages)));	\
	EXPECT_EQ((long)(pages), locked_now().mlocked - self->first.mlocked);	\
} while (0)

FIXTURE(locked)
{
	struct ksm_test ksm;
	struct locked first;
	char *map;	/* PAGES, registered, each of content SEED */
};

FIXTURE_SETUP(locked)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->first = locked_now();
	self->map = ksm_map_fenced(PAGES);
	ASSERT_NE(NULL, self->map);
	ASSERT_EQ(0, ksm_mergeable(self->map, PAGES));
	ASSERT_EQ(0, madvise(self->map, PAGES * psize(), MADV_DONTFORK));
	ksm_fill(self->map, PAGES, SEED, 0);
}

FIXTURE_TEARDOWN_PARENT(locked)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	if (!ksm_missing())
		EXPECT_LOCKED(0);
}

static bool merge_locked(char *map)
{
	return !mlock(map, PAGES * psize()) && ksm_merge_all() && frames(map, PAGES) == 1 &&
	       merged(map, PAGES) == PAGES;
}

TEST_F(locked, pages_merge_and_count_once)
{
	ASSERT_EQ(0, mlock(self->map, PAGES * psize()));
	EXPECT_LOCKED(PAGES);
	ASSERT_TRUE(merge_locked(self->map));
	EXPECT_LOCKED(1);
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
	ASSERT_EQ(0, munlock(self->map, PAGES * psize()));
	EXPECT_LOCKED(0);
	EXPECT_EQ(PAGES, merged(self->map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

TEST_F(locked, copy_that_a_write_makes_counts_of_its_own)
{
	ASSERT_TRUE(merge_locked(self->map));
	for (size_t i = 0; i < 4; i++) {
		ksm_fill(page(self->map, i), 1, OTHER + i, 0);
		EXPECT_LOCKED((long)i + 2);
	}
	EXPECT_EQ(-1, ksm_first_wrong(self->map, 4, OTHER, 1));
	EXPECT_EQ(-1, ksm_first_wrong(page(self->map, 4), PAGES - 4, SEED, 0));
	ASSERT_EQ(0, munlock(self->map, PAGES * psize()));
	EXPECT_LOCKED(0);
}

TEST_F(locked, merged_page_is_locked_until_the_last_lock_goes)
{
	ASSERT_TRUE(merge_locked(self->map));
	for (size_t i = 0; i < PAGES; i++) {
		ASSERT_EQ(0, munlock(page(self->map, i), psize()));
		EXPECT_LOCKED(i + 1 < PAGES);
	}
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

TEST_F(locked, merged_page_is_unlocked_by_munmap)
{
	ASSERT_TRUE(merge_locked(self->map));
	ASSERT_EQ(0, munmap(self->map, PAGES / 2 * psize()));
	EXPECT_LOCKED(1);
	EXPECT_EQ(-1, ksm_first_wrong(page(self->map, PAGES / 2), PAGES / 2, SEED, 0));
	ASSERT_EQ(0, munmap(page(self->map, PAGES / 2), PAGES / 2 * psize()));
	EXPECT_LOCKED(0);
}

TEST_F(locked, pages_count_each_when_unmerged)
{
	ASSERT_TRUE(merge_locked(self->map));
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(PAGES, frames(self->map, PAGES));
	EXPECT_LOCKED(PAGES);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_LOCKED(1);
	ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
	EXPECT_EQ(PAGES, frames(self->map, PAGES));
	EXPECT_LOCKED(PAGES);
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
	ASSERT_EQ(0, munlock(self->map, PAGES * psize()));
	EXPECT_LOCKED(0);
}

TEST_F(locked, memory_may_be_merged_before)
{
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(1, frames(self->map, PAGES));
	ASSERT_EQ(0, ksm_set("run", "0"));
	/* Locking may give memory that can be written pages of its own. */
	ASSERT_EQ(0, mlock(self->map, PAGES * psize()));
	EXPECT_LOCKED((long)frames(self->map, PAGES));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(1, frames(self->map, PAGES));
	EXPECT_LOCKED(1);
	ASSERT_EQ(0, munlock(self->map, PAGES * psize()));
	EXPECT_LOCKED(0);
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

TEST_F(locked, memory_may_be_read_only)
{
	ASSERT_EQ(0, mprotect(self->map, PAGES * psize(), PROT_READ));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(1, frames(self->map, PAGES));
	ASSERT_EQ(0, mlock(self->map, PAGES * psize()));
	EXPECT_EQ(PAGES, merged(self->map, PAGES));
	EXPECT_LOCKED(1);
	ASSERT_EQ(0, munlock(self->map, PAGES * psize()));
	EXPECT_LOCKED(0);
	EXPECT_EQ(PAGES, merged(self->map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

TEST_F(locked, on_fault_keeps_merged_pages_merged)
{
	ASSERT_EQ(0, madvise(self->map, PAGES / 4 * psize(), MADV_DONTNEED));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(PAGES - PAGES / 4, merged(self->map, PAGES));
	ASSERT_EQ(0, mlock2(self->map, PAGES * psize(), MLOCK_ONFAULT));
	EXPECT_EQ(PAGES - PAGES / 4, merged(self->map, PAGES));
	EXPECT_LOCKED(1);
	ASSERT_EQ(0, ksm_set("run", "0"));
	ksm_fill(self->map, PAGES / 2, OTHER, 1);
	EXPECT_LOCKED(PAGES / 2 + 1);
	EXPECT_EQ(PAGES / 2, merged(self->map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES / 2, OTHER, 1));
	EXPECT_EQ(-1, ksm_first_wrong(page(self->map, PAGES / 2), PAGES / 2, SEED, 0));
	ASSERT_EQ(0, munlock(self->map, PAGES * psize()));
	EXPECT_LOCKED(0);
}

TEST_F(locked, empty_page_is_unlocked_when_the_zero_page_takes_its_place)
{
	memset(self->map, 0, PAGES * psize());
	ASSERT_EQ(0, mlock(self->map, PAGES * psize()));
	EXPECT_LOCKED(PAGES);
	ASSERT_EQ(0, ksm_set("use_zero_pages", "1"));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(PAGES, ksm_get("ksm_zero_pages"));
	EXPECT_LOCKED(0);
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(PAGES, frames(self->map, PAGES));
	EXPECT_LOCKED(PAGES);
	for (size_t i = 0; i < PAGES * psize(); i++)
		ASSERT_EQ(0, self->map[i]);
	ASSERT_EQ(0, munlock(self->map, PAGES * psize()));
	EXPECT_LOCKED(0);
}

/* Two processes, of which one locks its memory. */
FIXTURE(locker)
{
	struct ksm_test ksm;
	struct locked first;
};

FIXTURE_VARIANT(locker)
{
	unsigned int locks, other;	/* worker 0 came first */
};

FIXTURE_VARIANT_ADD(locker, came_first) { .locks = 0, .other = 1 };
FIXTURE_VARIANT_ADD(locker, came_second) { .locks = 1, .other = 0 };

static long job_lock(struct ksm_worker *worker, long lock, long unused, long unused2)
{
	if (lock)
		return mlock(worker->map, worker->pages * psize()) ? -errno : 0;
	return munlock(worker->map, worker->pages * psize()) ? -errno : 0;
}

FIXTURE_SETUP(locker)
{
	const char *missing = ksm_missing();
	struct ksm_worker *worker = self->ksm.workers;

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->first = locked_now();
	for (unsigned int i = 0; i < 2; i++) {
		ASSERT_TRUE(ksm_fork_worker(&self->ksm, i, NULL, PAGES));
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_fill, SEED, 1, 0));
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_advise, MADV_MERGEABLE, 0, 0));
	}
	ASSERT_EQ(0, ksm_ask(&worker[variant->locks], job_lock, 1, 0, 0));
	EXPECT_LOCKED(PAGES);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(PAGES, ksm_get("pages_sharing"));
	EXPECT_LOCKED(PAGES);
}

FIXTURE_TEARDOWN_PARENT(locker)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	if (!ksm_missing())
		EXPECT_LOCKED(0);
}

static long wrong(struct ksm_worker *worker, uint64_t seed)
{
	return ksm_ask(worker, ksm_job_first_wrong, seed, 1, 0);
}

TEST_F(locker, takes_its_lock_along_when_it_dies)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(ksm_end_worker(&worker[variant->locks]));
	EXPECT_LOCKED(0);
	EXPECT_EQ(-1, wrong(&worker[variant->other], SEED));
}

TEST_F(locker, keeps_its_lock_when_the_other_dies)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(ksm_end_worker(&worker[variant->other]));
	EXPECT_LOCKED(PAGES);
	EXPECT_EQ(-1, wrong(&worker[variant->locks], SEED));
	ASSERT_EQ(0, ksm_ask(&worker[variant->locks], job_lock, 0, 0, 0));
	EXPECT_LOCKED(0);
	EXPECT_EQ(-1, wrong(&worker[variant->locks], SEED));
}

TEST_F(locker, takes_its_lock_along_when_it_writes)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_EQ(0, ksm_ask(&worker[variant->locks], ksm_job_fill, OTHER, 1, 0));
	EXPECT_LOCKED(PAGES);
	ASSERT_EQ(0, ksm_ask(&worker[variant->locks], job_lock, 0, 0, 0));
	EXPECT_LOCKED(0);
	EXPECT_EQ(-1, wrong(&worker[variant->locks], OTHER));
	EXPECT_EQ(-1, wrong(&worker[variant->other], SEED));
}

TEST_F(locker, keeps_its_lock_when_the_other_writes)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_EQ(0, ksm_ask(&worker[variant->other], ksm_job_fill, OTHER, 1, 0));
	EXPECT_LOCKED(PAGES);
	EXPECT_EQ(-1, wrong(&worker[variant->locks], SEED));
	EXPECT_EQ(-1, wrong(&worker[variant->other], OTHER));
	ASSERT_EQ(0, ksm_ask(&worker[variant->locks], job_lock, 0, 0, 0));
	EXPECT_LOCKED(0);
}

static long job_fork(struct ksm_worker *worker, long who, long test, long unused)
{
	return ksm_fork_worker((struct ksm_test *)test, who, worker->map, worker->pages);
}

/* What a family shares is copied to be merged. The lock is with one of its places. */
TEST_F(locker, unlocks_the_copies_that_were_made_for_its_family)
{
	struct ksm_worker *worker = self->ksm.workers;
	unsigned int i = variant->locks;

	ASSERT_EQ(0, ksm_set("run", "2"));
	ASSERT_EQ(1, ksm_ask(&worker[i], job_fork, 2, (long)&self->ksm, 0));
	EXPECT_LOCKED(PAGES);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == 2 * PAGES));
	EXPECT_LOCKED(PAGES);
	ASSERT_EQ(0, ksm_ask(&worker[i], job_lock, 0, 0, 0));
	EXPECT_LOCKED(0);
	for (i = 0; i < 3; i++)
		EXPECT_EQ(-1, wrong(&worker[i], SEED));
}

TEST_HARNESS_MAIN
