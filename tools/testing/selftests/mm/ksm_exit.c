// SPDX-License-Identifier: GPL-2.0-only
/*
 * What is left of memory that took part: nothing, whatever state its pages were in
 * when its process exited or asked for them back. And ksmd is left alone by processes
 * that come and go.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "ksm_util.h"
#include "vm_util.h"

/* Parts of a worker's memory. An exit with more than a few merged pages is a case apart. */
#define MERGED	200
#define SETTLED	150
#define WAITING	100
#define PAGES	(MERGED + SETTLED + WAITING)

#define ALIKE	1000
#define OWN	2000000
#define SEEN	4000000
#define NEW	6000000

#define CHILD	"KSM_EXIT_CHILD"

/* This program is what a child executes: it has nothing else to do. */
static void __attribute__((constructor)) end_at_once(void)
{
	if (getenv(CHILD))
		_exit(0);
}

static long job_fill_part(struct ksm_worker *worker, long from, long count, long seed)
{
	ksm_fill(worker->map + from * psize(), count, seed, 1);
	return 0;
}

static long job_advise_part(struct ksm_worker *worker, long from, long count, long advice)
{
	return madvise(worker->map + from * psize(), count * psize(), advice) ? -errno : 0;
}

FIXTURE(leaving)
{
	struct ksm_test ksm;
	long profit;
};

FIXTURE_VARIANT(leaving)
{
	const char *run;
};

FIXTURE_VARIANT_ADD(leaving, with_ksmd)
{
	.run = "1",
};

FIXTURE_VARIANT_ADD(leaving, without_ksmd)
{
	.run = "0",
};

/*
 * Two workers: alike pages, which merge, some of their own, which settle, and in the
 * second one some with contents that were seen in the first and are there no more: these
 * wait for a partner.
 */
FIXTURE_SETUP(leaving)
{
	const char *missing = ksm_missing();
	struct ksm_worker *worker = self->ksm.workers;

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->profit = ksm_get("general_profit");
	for (unsigned int i = 0; i < 2; i++, worker++) {
		ASSERT_TRUE(ksm_fork_worker(&self->ksm, i, NULL, PAGES));
		ASSERT_EQ(0, ksm_ask(worker, job_fill_part, 0, MERGED, ALIKE));
		ASSERT_EQ(0, ksm_ask(worker, job_fill_part, MERGED, SETTLED,
				     OWN + i * PAGES));
		ASSERT_EQ(0, ksm_ask(worker, job_fill_part, MERGED + SETTLED, WAITING,
				     SEEN + i * PAGES));
		ASSERT_EQ(0, ksm_ask(worker, ksm_job_advise, MADV_MERGEABLE, 0, 0));
	}
	ASSERT_TRUE(ksm_pass_by(6));
	ASSERT_EQ(MERGED, ksm_get("pages_sharing"));
	ASSERT_EQ(2 * (SETTLED + WAITING), ksm_get("pages_unshared"));

	worker = self->ksm.workers;
	ASSERT_EQ(0, ksm_ask(worker, job_fill_part, MERGED + SETTLED, WAITING, NEW));
	worker++;
	ASSERT_EQ(0, ksm_ask(worker, job_fill_part, MERGED + SETTLED, WAITING, SEEN));
	ASSERT_TRUE(ksm_pass_by(2));
	ASSERT_EQ(MERGED, ksm_get("pages_sharing"));
	ASSERT_EQ(2 * (SETTLED + WAITING), ksm_get("pages_unshared"));
	ASSERT_EQ(0, ksm_set("run", variant->run));
}

FIXTURE_TEARDOWN_PARENT(leaving)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

/* Who looks at /proc/PID may hold a process's memory for a moment longer. */
TEST_F(leaving, exit_gives_everything_back)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(ksm_end_worker(&worker[1]));
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == 0));
	EXPECT_EQ(MERGED, ksm_get("pages_shared"));
	EXPECT_EQ(SETTLED + WAITING, ksm_get("pages_unshared"));
	EXPECT_TRUE(ksm_check());
	ASSERT_TRUE(ksm_end_worker(&worker[0]));
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_shared") == 0));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	EXPECT_EQ(0, ksm_get("pages_unshared"));
	EXPECT_EQ(0, ksm_get("pages_volatile"));
	/* Metadata, too; ksmd drops what it has seen when nobody is left. */
	EXPECT_TRUE(ksm_wait_until(ksm_get("general_profit") == self->profit));
	EXPECT_TRUE(ksm_check());
}

TEST_F(leaving, both_at_once_give_everything_back)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_EQ(0, kill(worker[0].pid, SIGKILL));
	ASSERT_EQ(0, kill(worker[1].pid, SIGKILL));
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_shared") == 0 &&
				   ksm_get("pages_unshared") == 0));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	EXPECT_TRUE(ksm_wait_until(ksm_get("general_profit") == self->profit));
	EXPECT_TRUE(ksm_check());
}

/* What has exited is in nobody's way. */
TEST_F(leaving, settings_that_want_nothing_merged_can_be_changed_at_once)
{
	const long limit = ksm_get("max_page_sharing");

	ASSERT_TRUE(ksm_end_worker(&self->ksm.workers[0]));
	EXPECT_EQ(-EBUSY, ksm_set_number("max_page_sharing", limit + 1));
	ASSERT_TRUE(ksm_end_worker(&self->ksm.workers[1]));
	EXPECT_EQ(0, ksm_set_number("max_page_sharing", limit + 1));
	EXPECT_EQ(0, ksm_get("pages_shared"));
}

TEST_F(leaving, unmerging_everything_meets_those_that_exit)
{
	ASSERT_TRUE(ksm_end_worker(&self->ksm.workers[0]));
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(0, ksm_get("pages_shared"));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	EXPECT_EQ(0, ksm_get("pages_unshared"));
	EXPECT_TRUE(ksm_check());
}

/* Ranges that begin and end within blocks, from one kind of pages to the next. */
TEST_F(leaving, part_that_is_taken_back_is_forgotten_at_once)
{
	struct ksm_worker *worker = &self->ksm.workers[1];
	const long cut = 37;

	ASSERT_EQ(0, ksm_ask(worker, job_advise_part, MERGED - cut, 2 * cut, MADV_UNMERGEABLE));
	EXPECT_EQ(MERGED - cut, ksm_get("pages_sharing"));
	EXPECT_EQ(MERGED, ksm_get("pages_shared"));
	EXPECT_EQ(2 * (SETTLED + WAITING) - cut, ksm_get("pages_unshared"));
	EXPECT_EQ(PAGES - 2 * cut, ksm_proc_stat(worker->pid, "ksm_rmap_items"));
	ASSERT_EQ(0, ksm_ask(worker, job_advise_part, PAGES - WAITING - cut, 2 * cut,
			     MADV_UNMERGEABLE));
	EXPECT_EQ(2 * (SETTLED + WAITING) - 3 * cut, ksm_get("pages_unshared"));
	EXPECT_EQ(PAGES - 4 * cut, ksm_proc_stat(worker->pid, "ksm_rmap_items"));
	EXPECT_EQ(MERGED - cut, ksm_proc_stat(worker->pid, "ksm_merging_pages"));
	EXPECT_TRUE(ksm_check());
	ASSERT_EQ(0, ksm_ask(worker, ksm_job_advise, MADV_UNMERGEABLE, 0, 0));
	EXPECT_EQ(0, ksm_proc_stat(worker->pid, "ksm_rmap_items"));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	EXPECT_EQ(SETTLED + WAITING, ksm_get("pages_unshared"));
	EXPECT_TRUE(ksm_check());
}

FIXTURE(asleep)
{
	struct ksm_test ksm;
};

FIXTURE_SETUP(asleep)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

FIXTURE_TEARDOWN_PARENT(asleep)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

/* How often a process has gone to sleep, or had to let others run. */
static long switches(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	return ksm_number_in(path, "voluntary_ctxt_switches") +
	       ksm_number_in(path, "nonvoluntary_ctxt_switches");
}

static bool child_ends(bool exec)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		if (exec) {
			setenv(CHILD, "1", 1);
			execl("/proc/self/exe", "ksm_exit", NULL);
			_exit(1);
		}
		_exit(0);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && !status;
}

TEST_F(asleep, forks_and_programs_do_not_wake_ksmd)
{
	pid_t ksmd = ksm_ksmd();
	long before;
	char *map;

	map = ksm_map_pages(PAGES);
	ASSERT_NE(NULL, map);
	ksm_fill(map, PAGES, ALIKE, 1);
	/* Children take part, and so do the programs that they execute. */
	if (ksm_set_merge_any(1))
		SKIP(return, "no PR_SET_MEMORY_MERGE");
	ASSERT_GT(ksmd, 0);
	ASSERT_TRUE(ksm_pass_by(3));
	before = switches(ksmd);
	ASSERT_GT(before, 0);
	for (unsigned int i = 0; i < 40; i++)
		ASSERT_TRUE(child_ends(i % 2));
	EXPECT_EQ(before, switches(ksmd));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, ALIKE, 1));
}

TEST_HARNESS_MAIN
