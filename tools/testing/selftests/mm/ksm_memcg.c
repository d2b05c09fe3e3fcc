// SPDX-License-Identifier: GPL-2.0-only
/*
 * Merging between memory cgroups: a merged page is paid for once and all is paid for
 * again when it is unmerged, the group that paid may go, and a group that has no room
 * left for unmerging makes it fail or loses a process of its own, but holds up nobody
 * and harms nobody.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "ksm_util.h"
#include "vm_util.h"

#define CGROUPS	"/sys/fs/cgroup/"
#define COUNTS	"/sys/kernel/debug/ksm/work"
#define PAGES	1024
#define SEED	1000
#define OTHER	200000

/* Pages that a worker has besides, and what the kernel charges ahead. */
#define SLACK	128

/* Workers, of which the first two are in the group of that number. */
enum { FIRST, SECOND, GROUPS, THIRD = GROUPS, FOURTH };

static void group_file(char *path, size_t size, int group, const char *name)
{
	snprintf(path, size, CGROUPS "ksm_memcg_%d/%s", group, name);
}

/* 0 or -errno. */
static int group_set(int group, const char *name, const char *value)
{
	char path[128];

	group_file(path, sizeof(path), group, name);
	return ksm_write_text(path, value);
}

static int group_set_number(int group, const char *name, long value)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", value);
	return group_set(group, name, text);
}

static long group_get(int group, const char *name)
{
	char path[128], text[64];

	group_file(path, sizeof(path), group, name);
	return ksm_read_text(path, text, sizeof(text)) ? KSM_NONE : strtol(text, NULL, 10);
}

/* The number behind "@key " at the start of a line. */
static long number_of(const char *path, const char *key)
{
	char text[8192], start[64], *at;

	text[0] = '\n';
	if (ksm_read_text(path, text + 1, sizeof(text) - 1))
		return KSM_NONE;
	snprintf(start, sizeof(start), "\n%s ", key);
	at = strstr(text, start);
	return at ? strtol(at + strlen(start), NULL, 10) : KSM_NONE;
}

static long group_event(int group, const char *key)
{
	char path[128];

	group_file(path, sizeof(path), group, "memory.events");
	return number_of(path, key);
}

/* Anonymous pages that are charged to a group. */
static long anon(int group)
{
	char path[128];

	group_file(path, sizeof(path), group, "memory.stat");
	return number_of(path, "anon") / (long)psize();
}

static bool about(long number, long wanted)
{
	return labs(number - wanted) <= SLACK;
}

static long groups_dying(void)
{
	return number_of(CGROUPS "cgroup.stat", "nr_dying_descendants");
}

static bool add_group(int group)
{
	char path[128];

	group_file(path, sizeof(path), group, "");
	if (mkdir(path, 0755) && errno != EEXIST)
		return false;
	/* Not there without swap. */
	group_set(group, "memory.swap.max", "0");
	return group_get(group, "memory.current") != KSM_NONE;
}

/* Waits until its last process has left. */
static bool remove_group(int group)
{
	char path[128];

	group_file(path, sizeof(path), group, "");
	return ksm_wait_until(!rmdir(path) || errno == ENOENT);
}

FIXTURE(groups)
{
	struct ksm_test ksm;
};

FIXTURE_SETUP(groups)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	if (!add_group(FIRST) || !add_group(SECOND))
		SKIP(return, "needs cgroup2 with the memory controller in " CGROUPS);
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

FIXTURE_TEARDOWN_PARENT(groups)
{
	group_set(FIRST, "memory.max", "max");
	group_set(SECOND, "memory.max", "max");
	EXPECT_TRUE(ksm_end(&self->ksm));
	EXPECT_TRUE(remove_group(FIRST));
	EXPECT_TRUE(remove_group(SECOND));
}

/* A worker whose memory is charged to a group. */
/* khugepaged would copy what only one maps; kernels without it know nothing of the advice. */
static bool keep_pages_small(struct ksm_worker *worker)
{
	long error = ksm_ask(worker, ksm_job_advise, MADV_NOHUGEPAGE, 0, 0);

	return !error || error == -EINVAL;
}

static bool start(struct ksm_test *test, unsigned int who, int group, uint64_t step)
{
	struct ksm_worker *worker = &test->workers[who];

	return ksm_fork_worker(test, who, NULL, PAGES) && keep_pages_small(worker) &&
	       !group_set_number(group, "cgroup.procs", worker->pid) &&
	       !ksm_ask(worker, ksm_job_fill, SEED, step, 0) &&
	       !ksm_ask(worker, ksm_job_advise, MADV_MERGEABLE, 0, 0);
}

static size_t merged(struct ksm_worker *worker)
{
	return ksm_count_merged(worker->pid, worker->map, PAGES);
}

static long wrong(struct ksm_worker *worker, uint64_t step)
{
	return ksm_ask(worker, ksm_job_first_wrong, SEED, step, 0);
}

static long unmerge(struct ksm_worker *worker)
{
	return ksm_ask(worker, ksm_job_advise, MADV_UNMERGEABLE, 0, 0);
}

TEST_F(groups, pay_once_for_a_merged_page_and_each_for_its_own_when_unmerged)
{
	struct ksm_worker *worker = self->ksm.workers;
	long before;

	ASSERT_TRUE(start(&self->ksm, FIRST, FIRST, 1));
	ASSERT_TRUE(start(&self->ksm, SECOND, SECOND, 1));
	EXPECT_TRUE(ksm_wait_until(about(anon(FIRST), PAGES) && about(anon(SECOND), PAGES)));
	before = group_get(FIRST, "memory.current") + group_get(SECOND, "memory.current");
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(PAGES, ksm_get("pages_sharing"));
	EXPECT_TRUE(ksm_wait_until(about(anon(FIRST) + anon(SECOND), PAGES)));
	EXPECT_LE(group_get(FIRST, "memory.current") + group_get(SECOND, "memory.current"),
		  before - (PAGES - 2 * SLACK) * (long)psize());

	/* Who paid for the merged pages does so as long as the other maps them. */
	ASSERT_EQ(0, unmerge(&worker[FIRST]));
	EXPECT_TRUE(ksm_wait_until(about(anon(FIRST) + anon(SECOND), 2 * PAGES)));
	ASSERT_EQ(0, unmerge(&worker[SECOND]));
	EXPECT_TRUE(ksm_wait_until(about(anon(FIRST), PAGES) && about(anon(SECOND), PAGES)));
	EXPECT_EQ(-1, wrong(&worker[FIRST], 1));
	EXPECT_EQ(-1, wrong(&worker[SECOND], 1));
	ASSERT_TRUE(ksm_end_worker(&worker[FIRST]));
	ASSERT_TRUE(ksm_end_worker(&worker[SECOND]));
	EXPECT_TRUE(ksm_wait_until(about(anon(FIRST), 0) && about(anon(SECOND), 0)));
}

/* Reclaims all that it can; tells nothing, as never all of it can be. */
static void squeeze(int group)
{
	group_set(group, "memory.reclaim", "1G");
}

static size_t count_zero(const char *map, size_t pages)
{
	size_t count = 0;

	for (size_t i = 0; i < pages; i++)
		count += !*(volatile uint64_t *)(map + i * psize());
	return count;
}

/*
 * Gives up pages that a child shares, and then, when that is gone, again. Returns whether
 * the child lost any, or else how many went the second time.
 */
static long job_give_up(struct ksm_worker *worker, long group, long seed, long step)
{
	size_t size = worker->pages * psize();
	int go[2], status;
	pid_t pid;
	char byte;

	if (pipe(go))
		return -errno;
	pid = fork();
	if (!pid) {
		close(go[1]);
		_exit(read(go[0], &byte, 1) ||
		      ksm_first_wrong(worker->map, worker->pages, seed, step) != -1);
	}
	close(go[0]);
	madvise(worker->map, size, MADV_FREE);
	squeeze(group);
	close(go[1]);
	if (waitpid(pid, &status, 0) != pid || status)
		return -ECHILD;
	madvise(worker->map, size, MADV_FREE);
	squeeze(group);
	return count_zero(worker->map, worker->pages);
}

TEST_F(groups, do_not_lose_what_one_gives_up_and_another_has_unmerged)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(start(&self->ksm, FIRST, FIRST, 1));
	ASSERT_TRUE(start(&self->ksm, SECOND, SECOND, 1));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(PAGES, ksm_get("pages_sharing"));
	ASSERT_EQ(0, unmerge(&worker[FIRST]));
	EXPECT_LT(0, ksm_ask(&worker[FIRST], job_give_up, FIRST, SEED, 1));
	EXPECT_EQ(-1, wrong(&worker[SECOND], 1));
}

TEST_F(groups, pay_for_what_their_processes_write)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(start(&self->ksm, FIRST, FIRST, 1));
	ASSERT_TRUE(start(&self->ksm, SECOND, SECOND, 1));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(PAGES, ksm_get("pages_sharing"));
	ASSERT_EQ(0, ksm_ask(&worker[FIRST], ksm_job_fill, OTHER, 1, 0));
	ASSERT_EQ(0, ksm_ask(&worker[SECOND], ksm_job_fill, 2 * OTHER, 1, 0));
	EXPECT_TRUE(ksm_wait_until(about(anon(FIRST), PAGES) && about(anon(SECOND), PAGES)));
	EXPECT_EQ(-1, ksm_ask(&worker[FIRST], ksm_job_first_wrong, OTHER, 1, 0));
	EXPECT_EQ(-1, ksm_ask(&worker[SECOND], ksm_job_first_wrong, 2 * OTHER, 1, 0));
}

/* One group ends, and the other goes on with pages that the first may have paid for. */
static void end_group(struct __test_metadata *_metadata, struct ksm_test *test, int gone)
{
	int left = !gone;
	struct ksm_worker *worker = test->workers;
	long dying = groups_dying();

	ASSERT_TRUE(start(test, FIRST, FIRST, 1));
	ASSERT_TRUE(start(test, SECOND, SECOND, 1));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(PAGES, ksm_get("pages_sharing"));
	ASSERT_TRUE(ksm_end_worker(&worker[gone]));
	ASSERT_TRUE(remove_group(gone));
	EXPECT_EQ(PAGES, merged(&worker[left]));
	EXPECT_EQ(-1, wrong(&worker[left], 1));

	/* A newcomer shares them, too. */
	ASSERT_TRUE(start(test, THIRD, left, 1));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	/* A worker of the kernel's takes off what many pages of the first left behind. */
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == PAGES));
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES, merged(&worker[THIRD]));
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(0, merged(&worker[left]));
	EXPECT_EQ(0, merged(&worker[THIRD]));
	EXPECT_TRUE(ksm_wait_until(about(anon(left), 2 * PAGES)));
	EXPECT_EQ(-1, wrong(&worker[left], 1));
	EXPECT_EQ(-1, wrong(&worker[THIRD], 1));
	/* Nothing that was merged keeps the removed group in being. */
	EXPECT_TRUE(ksm_wait_until(groups_dying() <= dying));
}

TEST_F(groups, first_can_go_and_the_second_keeps_the_pages)
{
	end_group(_metadata, &self->ksm, FIRST);
}

TEST_F(groups, second_can_go_and_the_first_keeps_the_pages)
{
	end_group(_metadata, &self->ksm, SECOND);
}

static long job_fork(struct ksm_worker *worker, long who, long test, long unused)
{
	return ksm_fork_worker((struct ksm_test *)test, who, worker->map, worker->pages);
}

static bool set_oom_score_adj(struct ksm_worker *worker, const char *value)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", worker->pid);
	return !ksm_write_text(path, value);
}

/* Takes all room that is left. The call ends early where nobody can be killed for more. */
static long job_take_room(struct ksm_worker *worker, long unused, long unused2, long unused3)
{
	const long size = 2 * SLACK * psize();
	int zero = open("/dev/zero", O_RDONLY);
	char *map = ksm_map_pages(2 * SLACK);
	long done = map ? read(zero, map, size) : -1;

	close(zero);
	return done < size;
}

/*
 * One page of room would do for one copy, which frees pages, and so for all. So the limit is
 * below what is used: nobody may be killed for it, and there is nowhere to swap to.
 */
static int leave_no_room(int group)
{
	return group_set_number(group, "memory.max",
				group_get(group, "memory.current") - SLACK * psize());
}

/* A worker in a group, and its child, in which there is no room for a page more. */
static bool start_family(struct ksm_test *test, int group, unsigned int child)
{
	struct ksm_worker *worker = test->workers;

	/* Both have their own stacks in the end, which they got as copies after the fork. */
	return start(test, group, group, 1) && set_oom_score_adj(&worker[group], "-1000") &&
	       ksm_ask(&worker[group], job_fork, child, (long)test, 0) == 1 &&
	       wrong(&worker[group], 1) == -1 && wrong(&worker[child], 1) == -1 &&
	       ksm_wait_until(about(anon(group), PAGES)) &&
	       !group_set_number(group, "memory.max", group_get(group, "memory.current")) &&
	       ksm_ask(&worker[group], job_take_room, 0, 0, 0) == 1 && !leave_no_room(group);
}

#define EXPECT_UNHARMED(worker, nr)						\
do {										\
	for (unsigned int __i = 0; __i < (nr); __i++)				\
		EXPECT_EQ(-1, wrong(&(worker)[__i], 1));			\
	for (int __group = 0; __group < GROUPS; __group++)			\
		EXPECT_EQ(0, group_event(__group, "oom_kill"));			\
} while (0)

TEST_F(groups, without_room_merge_what_takes_no_copy)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(start_family(&self->ksm, FIRST, THIRD));
	ASSERT_TRUE(start(&self->ksm, SECOND, SECOND, 1));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == 2 * PAGES));
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_UNHARMED(worker, 3);
}

/*
 * What two families share cannot be merged without copies, for which ksmd has no right to
 * push for room. It tries again when there may be some, and not all the time.
 */
TEST_F(groups, without_room_lose_no_process_to_ksmd_and_no_time)
{
	struct ksm_worker *worker = self->ksm.workers;
	long hashed, scans;

	ASSERT_EQ(0, ksm_set("smart_scan", "1"));
	ASSERT_TRUE(start_family(&self->ksm, FIRST, THIRD));
	ASSERT_TRUE(start_family(&self->ksm, SECOND, FOURTH));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_TRUE(ksm_wait_passes(10 * KSM_MERGE_PASSES));
	hashed = ksm_number_in(COUNTS, "pages_hashed");
	scans = ksm_get("full_scans");
	ASSERT_TRUE(ksm_wait_passes(10 * KSM_MERGE_PASSES));
	hashed = ksm_number_in(COUNTS, "pages_hashed") - hashed;
	scans = ksm_get("full_scans") - scans;
	TH_LOG("%ld pages hashed in %ld passes", hashed, scans);
	/* A page that cannot be merged now is hashed in one of four passes at most. */
	EXPECT_LE(hashed, 4 * PAGES * scans / 4);
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	EXPECT_UNHARMED(worker, 4);

	ASSERT_EQ(0, group_set(FIRST, "memory.max", "max"));
	ASSERT_EQ(0, group_set(SECOND, "memory.max", "max"));
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == 3 * PAGES));
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_UNHARMED(worker, 4);
}

/* The first group has room for the pages as they are merged, and for few more. */
FIXTURE(full_group)
{
	struct ksm_test ksm;
};

FIXTURE_VARIANT(full_group)
{
	const char *oom_score_adj;	/* of the process in the full group */
	bool can_be_killed;
};

FIXTURE_VARIANT_ADD(full_group, of_killable) { .oom_score_adj = "0", .can_be_killed = true };
FIXTURE_VARIANT_ADD(full_group, of_protected) { .oom_score_adj = "-1000" };

/* All pages of both workers are equal, and merge. */
static bool fill_group(struct ksm_test *test, const char *oom_score_adj)
{
	struct ksm_worker *worker = test->workers;

	if (!start(test, FIRST, FIRST, 0) || !start(test, SECOND, SECOND, 0) ||
	    !set_oom_score_adj(&worker[FIRST], oom_score_adj) || !ksm_merge_all())
		return false;
	if (!ksm_wait_until(anon(FIRST) < SLACK))
		return false;
	/* What is written shall stay, and not make room by merging. */
	if (ksm_set("run", "0"))
		return false;
	return merged(&worker[FIRST]) == PAGES && merged(&worker[SECOND]) == PAGES &&
	       !group_set_number(FIRST, "memory.max",
				 group_get(FIRST, "memory.current") + SLACK * psize());
}

FIXTURE_SETUP(full_group)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	if (!add_group(FIRST) || !add_group(SECOND))
		SKIP(return, "needs cgroup2 with the memory controller in " CGROUPS);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_TRUE(fill_group(&self->ksm, variant->oom_score_adj));
	ASSERT_EQ(0, group_event(FIRST, "oom_kill"));
}

FIXTURE_TEARDOWN_PARENT(full_group)
{
	group_set(FIRST, "memory.max", "max");
	EXPECT_TRUE(ksm_end(&self->ksm));
	EXPECT_TRUE(remove_group(FIRST));
	EXPECT_TRUE(remove_group(SECOND));
}

static bool is_dead(struct ksm_worker *worker)
{
	if (worker->pid && waitpid(worker->pid, NULL, WNOHANG) == worker->pid)
		worker->pid = 0;
	return !worker->pid;
}

static bool has_answered(struct ksm_worker *worker)
{
	int value;

	return !sem_getvalue(&worker->answered, &value) && value > 0;
}

/* With room again all that is left can be unmerged, and holds what it held. */
static void unmerge_the_rest(struct __test_metadata *_metadata, struct ksm_worker *worker)
{
	ASSERT_EQ(0, group_set(FIRST, "memory.max", "max"));
	EXPECT_EQ(-1, wrong(&worker[SECOND], 0));
	if (!is_dead(&worker[FIRST])) {
		EXPECT_EQ(-1, wrong(&worker[FIRST], 0));
		EXPECT_EQ(0, unmerge(&worker[FIRST]));
		EXPECT_EQ(0, merged(&worker[FIRST]));
		EXPECT_EQ(-1, wrong(&worker[FIRST], 0));
	}
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(0, merged(&worker[SECOND]));
	EXPECT_EQ(0, ksm_get("pages_shared"));
	EXPECT_EQ(-1, wrong(&worker[SECOND], 0));
}

TEST_F(full_group, makes_madvise_fail_or_loses_a_process_and_harms_nobody_else)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_EQ(0, ksm_send(&worker[FIRST], ksm_job_advise, MADV_UNMERGEABLE, 0, 0));
	ASSERT_TRUE(ksm_wait_until(is_dead(&worker[FIRST]) || has_answered(&worker[FIRST])));
	if (is_dead(&worker[FIRST])) {
		EXPECT_TRUE(variant->can_be_killed);
		EXPECT_LE(1, group_event(FIRST, "oom_kill"));
	} else {
		EXPECT_GT(0, ksm_receive(&worker[FIRST]));
		EXPECT_LE(1, group_event(FIRST, "max"));
	}
	EXPECT_EQ(PAGES, merged(&worker[SECOND]));
	EXPECT_EQ(0, group_event(SECOND, "oom_kill"));
	unmerge_the_rest(_metadata, worker);
}

static long job_read_zeros(struct ksm_worker *worker, long unused, long unused2, long unused3)
{
	int zero = open("/dev/zero", O_RDONLY);
	long done = read(zero, worker->map, worker->pages * psize());

	done = done < 0 ? -errno : done;
	close(zero);
	return done;
}

/* What a call writes for a process takes as much memory as what that writes itself. */
TEST_F(full_group, makes_a_call_that_writes_fail_and_harms_nobody_else)
{
	struct ksm_worker *worker = self->ksm.workers;
	bool dead;

	ASSERT_EQ(0, ksm_send(&worker[FIRST], job_read_zeros, 0, 0, 0));
	ASSERT_TRUE(ksm_wait_until(is_dead(&worker[FIRST]) || has_answered(&worker[FIRST])));
	dead = is_dead(&worker[FIRST]);
	EXPECT_TRUE(!dead || variant->can_be_killed);
	EXPECT_TRUE(dead || ksm_receive(&worker[FIRST]) < (long)(PAGES * psize()));
	EXPECT_LE(1, group_event(FIRST, "max"));
	EXPECT_EQ(0, group_event(SECOND, "oom_kill"));
	EXPECT_EQ(PAGES, merged(&worker[SECOND]));
	EXPECT_EQ(-1, wrong(&worker[SECOND], 0));
}

TEST_F(full_group, does_not_hold_up_run_2)
{
	struct ksm_worker *worker = self->ksm.workers;
	uint64_t start = ksm_now_millisecs();
	int result = ksm_set("run", "2");

	EXPECT_LE(ksm_now_millisecs() - start, KSM_STILL_SECONDS * 1000);
	EXPECT_TRUE(!result || result == -ENOMEM || result == -EINTR);
	EXPECT_EQ(result ? 0 : 2, ksm_get("run"));
	if (!result) {
		EXPECT_EQ(0, merged(&worker[SECOND]));
		EXPECT_TRUE(ksm_wait_until(is_dead(&worker[FIRST])));
		EXPECT_TRUE(variant->can_be_killed);
	}
	/* Who was killed may need a moment. */
	if (group_event(FIRST, "oom_kill"))
		EXPECT_TRUE(ksm_wait_until(is_dead(&worker[FIRST])));
	EXPECT_EQ(0, group_event(SECOND, "oom_kill"));
	unmerge_the_rest(_metadata, worker);
}

TEST_F(groups, without_room_lose_the_process_that_writes_and_no_other)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(fill_group(&self->ksm, "0"));
	ASSERT_EQ(0, ksm_send(&worker[FIRST], ksm_job_fill, OTHER, 1, 0));
	ASSERT_TRUE(ksm_wait_until(is_dead(&worker[FIRST])));
	EXPECT_LE(1, group_event(FIRST, "oom_kill"));
	EXPECT_EQ(0, group_event(SECOND, "oom_kill"));
	EXPECT_EQ(PAGES, merged(&worker[SECOND]));
	unmerge_the_rest(_metadata, worker);
}

TEST_HARNESS_MAIN
