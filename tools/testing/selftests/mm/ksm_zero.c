// SPDX-License-Identifier: GPL-2.0-only
/*
 * use_zero_pages: empty pages give way to the kernel's zero page, which looks
 * to their owner as if nothing had happened. Each such page is counted from the
 * moment it is replaced until it goes, in its process and in the system; after
 * every test here, whatever it did, none is left in the count.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "ksm_util.h"
#include "vm_util.h"

#define PAGES	64
#define SEED	1000

/* As in linux/kernel-page-flags.h, which cannot be had together with vm_util.h. */
#define KPF_ZERO_PAGE	BIT_ULL(24)

FIXTURE(empty_pages)
{
	struct ksm_test ksm;
	char *map;	/* PAGES of them, all replaced by the zero page */
};

static char *page(char *map, size_t index)
{
	return map + index * psize();
}

/* How many map the zero page, whoever has put it there? */
static size_t zeros(pid_t pid, char *map, size_t pages)
{
	size_t count = 0;

	for (size_t i = 0; i < pages; i++) {
		unsigned long pfn = ksm_pfn(pid, page(map, i));

		count += pfn && (ksm_page_flags(pfn) & KPF_ZERO_PAGE);
	}
	return count;
}

static bool is_empty(const char *map, size_t pages)
{
	for (size_t i = 0; i < pages * psize(); i++)
		if (map[i])
			return false;
	return true;
}

static long counted(pid_t pid)
{
	return ksm_proc_stat(pid, "ksm_zero_pages");
}

#define EXPECT_COUNTED(mine, all)					\
do {									\
	EXPECT_EQ((long)(mine), counted(getpid()));			\
	EXPECT_EQ((long)(all), ksm_get("ksm_zero_pages"));		\
} while (0)

#define EXPECT_COUNTERS(shared, sharing, unshared)			\
do {									\
	EXPECT_EQ((long)(shared), ksm_get("pages_shared"));		\
	EXPECT_EQ((long)(sharing), ksm_get("pages_sharing"));		\
	EXPECT_EQ((long)(unshared), ksm_get("pages_unshared"));		\
	EXPECT_EQ(0, ksm_get("pages_volatile"));			\
} while (0)

FIXTURE_SETUP(empty_pages)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_set("use_zero_pages", "1"));
	self->map = ksm_map_fenced(PAGES);
	ASSERT_NE(NULL, self->map);
	memset(self->map, 0, PAGES * psize());
	ASSERT_EQ(PAGES, ksm_count_frames(getpid(), self->map, PAGES));
	ASSERT_EQ(0, ksm_mergeable(self->map, PAGES));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(PAGES, zeros(getpid(), self->map, PAGES));
}

FIXTURE_TEARDOWN_PARENT(empty_pages)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	EXPECT_EQ(0, ksm_get("ksm_zero_pages"));
}

TEST_F(empty_pages, are_counted_as_zero_pages_and_not_as_shared_ones)
{
	EXPECT_COUNTED(PAGES, PAGES);
	EXPECT_COUNTERS(0, 0, 0);
	EXPECT_EQ(0, ksm_proc_stat(getpid(), "ksm_merging_pages"));
	EXPECT_EQ(0, ksm_count_merged(getpid(), self->map, PAGES));
	EXPECT_EQ(1, ksm_count_frames(getpid(), self->map, PAGES));
	EXPECT_TRUE(is_empty(self->map, PAGES));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_COUNTED(PAGES, PAGES);
	EXPECT_COUNTERS(0, 0, 0);
}

/*
 * What changes a file drops pages from private mappings of it, but for private copies.
 * An empty one must go on to be one.
 */
TEST_F(empty_pages, of_private_file_mappings_stay_private)
{
	const size_t size = PAGES * psize();
	int fd = memfd_create("ksm_zero", 0);
	char *content = ksm_map_pages(PAGES);
	char *map;

	ASSERT_GE(fd, 0);
	ASSERT_NE(NULL, content);
	ksm_fill(content, PAGES, SEED, 0);
	ASSERT_EQ(size, pwrite(fd, content, size, 0));
	map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	memset(map, 0, size);
	ASSERT_EQ(0, ksm_mergeable(map, PAGES));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(1, ksm_count_frames(getpid(), map, PAGES));
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, size));
	ASSERT_EQ(size, pwrite(fd, content, size, 0));
	EXPECT_TRUE(is_empty(map, PAGES));
	close(fd);
}

TEST_F(empty_pages, are_no_anonymous_memory_any_more)
{
	const unsigned long kilobytes = PAGES * psize() / 1024;
	char *map = ksm_map_fenced(PAGES);
	unsigned long before;

	ASSERT_NE(NULL, map);
	memset(map, 0, PAGES * psize());
	before = rss_anon();
	ASSERT_EQ(0, ksm_mergeable(map, PAGES));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(before - kilobytes, rss_anon());
	EXPECT_COUNTED(2 * PAGES, 2 * PAGES);
	ksm_fill(map, PAGES, SEED, 1);
	EXPECT_EQ(before, rss_anon());
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 1));
	EXPECT_TRUE(is_empty(self->map, PAGES));
}

TEST_F(empty_pages, count_as_profit)
{
	const long bytes = PAGES * psize();
	long profit;

	/* Less metadata, which is not a tenth of them. */
	profit = ksm_get("general_profit");
	EXPECT_LE(profit, bytes);
	EXPECT_GT(profit, bytes / 10 * 9);
	profit = ksm_proc_stat(getpid(), "ksm_process_profit");
	EXPECT_LE(profit, bytes);
	EXPECT_GT(profit, bytes / 10 * 9);
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_LE(ksm_get("general_profit"), 0);
	EXPECT_LE(ksm_proc_stat(getpid(), "ksm_process_profit"), 0);
	EXPECT_TRUE(is_empty(self->map, PAGES));
}

TEST_F(empty_pages, become_private_one_by_one_when_written)
{
	ASSERT_EQ(0, ksm_set("run", "0"));
	for (size_t i = 0; i < PAGES; i++) {
		ksm_fill(page(self->map, i), 1, SEED + i, 0);
		EXPECT_COUNTED(PAGES - i - 1, PAGES - i - 1);
		EXPECT_EQ(-1, ksm_first_wrong(self->map, i + 1, SEED, 1));
		EXPECT_TRUE(is_empty(page(self->map, i + 1), PAGES - i - 1));
	}
	EXPECT_EQ(PAGES, ksm_count_frames(getpid(), self->map, PAGES));
	/* And go again when they are empty again. */
	memset(self->map, 0, PAGES / 2 * psize());
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_COUNTED(PAGES / 2, PAGES / 2);
	EXPECT_COUNTERS(0, 0, PAGES / 2);
	EXPECT_TRUE(is_empty(self->map, PAGES / 2));
	EXPECT_EQ(-1, ksm_first_wrong(page(self->map, PAGES / 2), PAGES / 2,
				      SEED + PAGES / 2, 1));
}

TEST_F(empty_pages, must_be_empty_to_the_last_byte)
{
	const size_t last = psize() - 1;
	char *map = ksm_map_registered(8);

	ASSERT_NE(NULL, map);
	memset(map, 0, 8 * psize());
	map[0] = 1;
	page(map, 1)[last] = 1;
	page(map, 2)[last / 2] = 1;
	ksm_fill(page(map, 3), 2, SEED, 0);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_COUNTED(PAGES + 3, PAGES + 3);
	EXPECT_COUNTERS(1, 1, 3);
	EXPECT_EQ(1, map[0]);
	EXPECT_EQ(1, page(map, 1)[last]);
	EXPECT_EQ(1, page(map, 2)[last / 2]);
	map[0] = page(map, 1)[last] = page(map, 2)[last / 2] = 0;
	EXPECT_TRUE(is_empty(map, 3));
	EXPECT_EQ(-1, ksm_first_wrong(page(map, 3), 2, SEED, 0));
	EXPECT_TRUE(is_empty(page(map, 5), 3));
}

TEST_F(empty_pages, never_written_are_not_counted)
{
	char *map = ksm_map_registered(PAGES);

	ASSERT_NE(NULL, map);
	force_read_pages(map, PAGES, psize());
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_COUNTED(PAGES, PAGES);
	EXPECT_TRUE(is_empty(map, PAGES));
	ASSERT_EQ(0, munmap(map, PAGES * psize()));
	EXPECT_COUNTED(PAGES, PAGES);
}

TEST_F(empty_pages, stay_replaced_whatever_does_not_touch_them)
{
	const size_t size = PAGES * psize();

	ASSERT_EQ(0, ksm_set("run", "0"));
	EXPECT_TRUE(is_empty(self->map, PAGES));
	ASSERT_EQ(0, madvise(self->map, size, MADV_COLD));
	ASSERT_EQ(0, madvise(self->map, size, MADV_FREE));
	ASSERT_EQ(0, madvise(self->map, size, MADV_PAGEOUT));
	ASSERT_EQ(0, mprotect(self->map, size, PROT_NONE));
	ASSERT_EQ(0, mprotect(self->map, size, PROT_READ));
	ASSERT_EQ(0, mprotect(self->map, size, PROT_READ | PROT_WRITE));
	EXPECT_COUNTED(PAGES, PAGES);
	EXPECT_EQ(PAGES, zeros(getpid(), self->map, PAGES));
	/* Writable again, but the zero page is not what is written to. */
	ksm_fill(self->map, 1, SEED, 0);
	EXPECT_COUNTED(PAGES - 1, PAGES - 1);
	EXPECT_TRUE(is_empty(page(self->map, 1), PAGES - 1));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, 1, SEED, 0));
}

TEST_F(empty_pages, share_one_of_their_own_while_this_is_off)
{
	char *map = ksm_map_registered(PAGES);

	ASSERT_NE(NULL, map);
	ASSERT_EQ(0, ksm_set("use_zero_pages", "0"));
	memset(map, 0, PAGES * psize());
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_COUNTERS(1, PAGES - 1, 0);
	EXPECT_EQ(PAGES, ksm_count_merged(getpid(), map, PAGES));
	EXPECT_TRUE(is_empty(map, PAGES));
	/* What has been replaced stays so. */
	EXPECT_COUNTED(PAGES, PAGES);
	EXPECT_EQ(PAGES, zeros(getpid(), self->map, PAGES));
	memset(self->map, 0, PAGES * psize());
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_COUNTED(0, 0);
	EXPECT_COUNTERS(1, 2 * PAGES - 1, 0);

	/* On again: those that are written anew. */
	ASSERT_EQ(0, ksm_set("use_zero_pages", "1"));
	memset(map, 0, PAGES * psize());
	memset(self->map, 0, PAGES * psize());
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_COUNTED(2 * PAGES, 2 * PAGES);
	EXPECT_COUNTERS(0, 0, 0);
	EXPECT_TRUE(is_empty(map, PAGES));
	EXPECT_TRUE(is_empty(self->map, PAGES));
}

static long job_empty(struct ksm_worker *worker, long unused, long unused2, long unused3)
{
	memset(worker->map, 0, worker->pages * psize());
	return 0;
}

static long job_is_empty(struct ksm_worker *worker, long unused, long unused2, long unused3)
{
	return is_empty(worker->map, worker->pages);
}

static long job_exec(struct ksm_worker *worker, long unused, long unused2, long unused3)
{
	char *const arguments[] = { "ksm_zero", "-h", NULL };

	if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr))
		return -errno;
	execve("/proc/self/exe", arguments, NULL);
	return -errno;
}

TEST_F(empty_pages, of_each_process_add_up_and_go_with_it)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_EQ(0, madvise(self->map, PAGES * psize(), MADV_DONTFORK));
	for (unsigned int i = 0; i < 3; i++) {
		ASSERT_TRUE(ksm_fork_worker(&self->ksm, i, NULL, 10 * (i + 1)));
		ASSERT_EQ(0, ksm_ask(&worker[i], job_empty, 0, 0, 0));
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_advise, MADV_MERGEABLE, 0, 0));
	}
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	for (unsigned int i = 0; i < 3; i++) {
		EXPECT_EQ(10 * (i + 1), counted(worker[i].pid));
		EXPECT_EQ(1, ksm_ask(&worker[i], job_is_empty, 0, 0, 0));
	}
	EXPECT_COUNTED(PAGES, PAGES + 60);
	ASSERT_TRUE(ksm_end_worker(&worker[2]));
	EXPECT_COUNTED(PAGES, PAGES + 30);
	/* exec takes them, too. */
	ASSERT_EQ(0, ksm_send(&worker[1], job_exec, 0, 0, 0));
	ASSERT_EQ(worker[1].pid, waitpid(worker[1].pid, NULL, 0));
	worker[1].pid = 0;
	EXPECT_COUNTED(PAGES, PAGES + 10);
	EXPECT_TRUE(is_empty(self->map, PAGES));
}

TEST_F(empty_pages, of_a_child_are_those_it_got)
{
	struct ksm_worker *child = &self->ksm.workers[0], *grandchild = child + 1;

	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, self->map, PAGES));
	EXPECT_EQ(PAGES, counted(child->pid));
	EXPECT_COUNTED(PAGES, 2 * PAGES);
	EXPECT_EQ(PAGES, zeros(child->pid, self->map, PAGES));

	/* To each its own. */
	ksm_fill(self->map, 5, SEED, 1);
	EXPECT_EQ(PAGES, counted(child->pid));
	EXPECT_COUNTED(PAGES - 5, 2 * PAGES - 5);
	EXPECT_EQ(1, ksm_ask(child, job_is_empty, 0, 0, 0));
	ASSERT_EQ(0, ksm_ask(child, ksm_job_fill, SEED, 0, 0));
	EXPECT_EQ(0, counted(child->pid));
	EXPECT_COUNTED(PAGES - 5, PAGES - 5);

	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 1, self->map, PAGES));
	EXPECT_EQ(PAGES - 5, counted(grandchild->pid));
	EXPECT_COUNTED(PAGES - 5, 2 * (PAGES - 5));
	ASSERT_EQ(0, ksm_ask(grandchild, ksm_job_advise, MADV_UNMERGEABLE, 0, 0));
	EXPECT_EQ(0, counted(grandchild->pid));
	EXPECT_COUNTED(PAGES - 5, PAGES - 5);
	EXPECT_EQ(-1, ksm_first_wrong(self->map, 5, SEED, 1));
	EXPECT_TRUE(is_empty(page(self->map, 5), PAGES - 5));
	EXPECT_EQ(-1, ksm_ask(child, ksm_job_first_wrong, SEED, 0, 0));
}

TEST_F(empty_pages, that_a_child_did_not_get_are_not_counted_for_it)
{
	struct ksm_worker *child = self->ksm.workers;
	const size_t quarter = PAGES / 4;

	ASSERT_EQ(0, madvise(self->map, quarter * psize(), MADV_DONTFORK));
	ASSERT_EQ(0, madvise(page(self->map, quarter), 2 * quarter * psize(),
			     MADV_WIPEONFORK));
	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, page(self->map, quarter), 3 * quarter));
	EXPECT_EQ(quarter, counted(child->pid));
	EXPECT_COUNTED(PAGES, PAGES + quarter);
	EXPECT_EQ(0, ksm_count_present(child->pid, self->map, 3 * quarter));
	EXPECT_EQ(1, ksm_ask(child, job_is_empty, 0, 0, 0));
	EXPECT_EQ(quarter, counted(child->pid));
	ASSERT_TRUE(ksm_end_worker(child));
	EXPECT_COUNTED(PAGES, PAGES);
	EXPECT_TRUE(is_empty(self->map, PAGES));
}

/* Forks and changes its memory all the time; -1, or the round that went wrong. */
static long job_churn(struct ksm_worker *worker, long rounds, long seed, long unused)
{
	const size_t half = worker->pages / 2;
	char *upper = page(worker->map, half);
	int status, bad = 0;

	for (long i = seed; i < seed + rounds; i++) {
		if (madvise(upper, half * psize(), i % 3 ? MADV_DOFORK : MADV_DONTFORK))
			return i;
		for (unsigned int child = 0; child < 3; child++) {
			if (fork())
				continue;
			if (child % 2)
				ksm_fill(worker->map, half / 2, SEED, 0);
			ksm_pause();
			_exit(!is_empty(page(worker->map, half / 2), half - half / 2));
		}
		ksm_fill(page(upper, i % half), half - i % half, SEED, 1);
		memset(page(upper, i % half), 0, (half - i % half) * psize());
		while (wait(&status) > 0)
			bad |= status;
		if (bad || !is_empty(worker->map, worker->pages))
			return i;
	}
	return -1;
}

TEST_F(empty_pages, are_counted_right_while_many_fork_and_exit)
{
	struct ksm_worker *worker = self->ksm.workers;
	const unsigned int count = 4;
	long sum = PAGES;

	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 0));
	ASSERT_EQ(0, madvise(self->map, PAGES * psize(), MADV_DONTFORK));
	for (unsigned int i = 0; i < count; i++) {
		ASSERT_TRUE(ksm_fork_worker(&self->ksm, i, NULL, PAGES));
		ASSERT_EQ(0, ksm_ask(&worker[i], job_empty, 0, 0, 0));
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_advise, MADV_MERGEABLE, 0, 0));
	}
	for (unsigned int round = 0; round < 10; round++) {
		for (unsigned int i = 0; i < count; i++)
			ASSERT_EQ(0, ksm_send(&worker[i], job_churn, 20, round * 20 + i, 0));
		EXPECT_GE(ksm_get("ksm_zero_pages"), PAGES);
		for (unsigned int i = 0; i < count; i++)
			ASSERT_EQ(-1, ksm_receive(&worker[i]));
		EXPECT_GE(ksm_get("ksm_zero_pages"), PAGES);
	}
	/* The page tables say what the counts must be. */
	ASSERT_EQ(0, ksm_set("run", "0"));
	for (unsigned int i = 0; i < count; i++) {
		EXPECT_EQ(zeros(worker[i].pid, worker[i].map, PAGES), counted(worker[i].pid));
		sum += counted(worker[i].pid);
	}
	EXPECT_COUNTED(PAGES, sum);
	for (unsigned int i = 0; i < count; i++)
		ASSERT_TRUE(ksm_end_worker(&worker[i]));
	EXPECT_COUNTED(PAGES, PAGES);
	EXPECT_TRUE(is_empty(self->map, PAGES));
}

TEST_HARNESS_MAIN
