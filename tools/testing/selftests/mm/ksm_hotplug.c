// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory that goes offline: merged pages in it move elsewhere, stay merged and are
 * still found, candidates too, and what KSM remembers of pages that are long gone does
 * no harm when the memory comes back.
 *
 * A block of memory that can go offline is looked for and onlined as movable. Then only
 * memory of programs goes there, and that of programs bound to its node goes there first.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include "ksm_numa.h"
#include "ksm_util.h"

#define MEMORY	"/sys/devices/system/memory"
#define PAGES	128
#define SEED	1000
#define CYCLES	5

/* So many times 2 * PAGES pages are tried to get some that lie in the block. */
#define WINDOWS	256

/* An attempt to take a block offline may go on for ever. */
#define TRY_SECONDS	5

/**
 * struct memory_block - the unit in which memory goes offline
 * @path: its directory
 * @zone: what it was in before
 * @first: PFN of its first page
 * @end: PFN behind its last page
 * @node: its NUMA node, -1 if nobody tells
 */
struct memory_block {
	char path[96];
	char zone[32];
	unsigned long first;
	unsigned long end;
	int node;
};

FIXTURE(block)
{
	struct ksm_test ksm;
	struct memory_block block;
};

static bool read_line(const char *dir, const char *name, char *text, size_t size)
{
	char path[160];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	if (ksm_read_text(path, text, size))
		return false;
	text[strcspn(text, "\n")] = '\0';
	return true;
}

static unsigned long read_hex(const char *dir, const char *name)
{
	char text[32];

	return read_line(dir, name, text, sizeof(text)) ? strtoul(text, NULL, 16) : 0;
}

static bool is_in_state(const struct memory_block *block, const char *state)
{
	char text[32];

	return read_line(block->path, "state", text, sizeof(text)) && !strcmp(text, state);
}

static void wake_up(int number)
{
}

/* 0 or -errno, which is -EINTR when the time was over. */
static int try_state(const struct memory_block *block, const char *state, time_t seconds)
{
	/* Again and again, as the first may come too early to be of use. */
	const struct itimerval limit = { { seconds, 0 }, { seconds, 0 } }, none = { 0 };
	struct sigaction action = { .sa_handler = wake_up };
	char path[160];
	int fd, error;

	snprintf(path, sizeof(path), "%s/state", block->path);
	fd = open(path, O_WRONLY);
	if (fd < 0)
		return -errno;
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &limit, NULL);
	error = write(fd, state, strlen(state)) < 0 ? -errno : 0;
	setitimer(ITIMER_REAL, &none, NULL);
	close(fd);
	return error;
}

/* Others may hold a page of it for a moment. */
static bool set_state(const struct memory_block *block, const char *state)
{
	return ksm_wait_until(!try_state(block, state, TRY_SECONDS));
}

static bool go_offline(const struct memory_block *block)
{
	return set_state(block, "offline") && is_in_state(block, "offline");
}

static bool go_online(const struct memory_block *block)
{
	return set_state(block, "online_movable") && is_in_state(block, "online");
}

static int node_of_block(const struct memory_block *block)
{
	char path[160];

	for (int i = 0; i < KSM_MAX_NODES; i++) {
		snprintf(path, sizeof(path), "%s/node%d", block->path, i);
		if (!access(path, F_OK))
			return i;
	}
	return -1;
}

/* Is it one that can go offline? Then it is movable now. */
static bool claim(struct memory_block *block, const char *name)
{
	unsigned long pages = read_hex(MEMORY, "block_size_bytes") / psize();

	snprintf(block->path, sizeof(block->path), MEMORY "/%.32s", name);
	if (!is_in_state(block, "online") ||
	    !read_line(block->path, "valid_zones", block->zone, sizeof(block->zone)))
		return false;
	block->first = read_hex(block->path, "phys_index") * pages;
	block->end = block->first + pages;
	block->node = node_of_block(block);
	if (!strcmp(block->zone, "none") || try_state(block, "offline", TRY_SECONDS))
		return false;
	if (go_online(block))
		return true;
	set_state(block, "online");
	return false;
}

static bool claim_any(struct memory_block *block)
{
	DIR *dir = opendir(MEMORY);
	struct dirent *entry;
	bool found = false;

	if (!dir)
		return false;
	while (!found && (entry = readdir(dir))) {
		if (!strncmp(entry->d_name, "memory", strlen("memory")))
			found = claim(block, entry->d_name);
	}
	closedir(dir);
	return found;
}

/* As it was found: online, and the kernel's own again if it was that. */
static bool put_back(const struct memory_block *block)
{
	if (!strcmp(block->zone, "Movable"))
		return is_in_state(block, "online") || go_online(block);
	return (is_in_state(block, "offline") || go_offline(block)) &&
	       set_state(block, "online_kernel");
}

FIXTURE_SETUP(block)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	if (access(MEMORY "/block_size_bytes", F_OK))
		SKIP(return, "this kernel has no memory hotplug (" MEMORY ")");
	if (!claim_any(&self->block))
		SKIP(return, "no block of this machine's memory can go offline");
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

/* Runs when the test's process is gone. */
FIXTURE_TEARDOWN_PARENT(block)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	EXPECT_TRUE(ksm_counters_are_zero());
	EXPECT_TRUE(put_back(&self->block));
}

static size_t count_inside(const struct memory_block *block, char *map, size_t pages)
{
	size_t count = 0;

	for (size_t i = 0; i < pages; i++) {
		unsigned long pfn = ksm_pfn(getpid(), map + i * psize());

		count += pfn >= block->first && pfn < block->end;
	}
	return count;
}

static char *page(char *map, size_t index)
{
	return map + index * psize();
}

/* Memory with all its pages in the block: what lies elsewhere is given back. */
static char *map_inside(const struct memory_block *block)
{
	const size_t window = 2 * PAGES;
	char *room = ksm_map_fenced(WINDOWS * window), *map;
	size_t i;

	if (!room || (block->node >= 0 && ksm_bind(room, WINDOWS * window, block->node, 0)))
		return NULL;
	/* No huge pages: says EINVAL where there are none. */
	madvise(room, WINDOWS * window * psize(), MADV_NOHUGEPAGE);
	for (i = 0; i < WINDOWS; i++) {
		map = page(room, i * window);
		for (size_t j = 0; j < window; j++)
			*page(map, j) = 1;
		if (count_inside(block, map, window) == window)
			break;
	}
	if (i == WINDOWS)
		return NULL;
	/* Either may be empty, which munmap() refuses. */
	munmap(room, i * window * psize());
	munmap(page(map, window), (WINDOWS - i - 1) * window * psize());
	return map;
}

/* Different pages, and a second time the same. */
static void fill_twice(char *map, uint64_t seed)
{
	ksm_fill(map, PAGES, seed, 1);
	ksm_fill(page(map, PAGES), PAGES, seed, 1);
}

/* PAGES merged pages in the block. */
static char *merge_inside(const struct memory_block *block, uint64_t seed)
{
	char *map = map_inside(block);

	if (!map || ksm_mergeable(map, 2 * PAGES))
		return NULL;
	fill_twice(map, seed);
	if (!ksm_merge_all() || count_inside(block, map, 2 * PAGES) != 2 * PAGES ||
	    ksm_count_merged(getpid(), map, 2 * PAGES) != 2 * PAGES ||
	    ksm_count_frames(getpid(), map, 2 * PAGES) != PAGES)
		return NULL;
	return map;
}

/* PAGES pages of the same contents, wherever they lie. */
static char *new_twins(uint64_t seed)
{
	char *map = ksm_map_fenced(PAGES);

	if (!map || ksm_mergeable(map, PAGES))
		return NULL;
	ksm_fill(map, PAGES, seed, 1);
	return map;
}

#define EXPECT_CONTENT(map, seed)					\
do {									\
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, seed, 1));		\
	EXPECT_EQ(-1, ksm_first_wrong(page(map, PAGES), PAGES, seed, 1)); \
} while (0)

/* All still in place, but not where it was. */
#define EXPECT_MERGED_OUTSIDE(block, map, seed)				\
do {									\
	EXPECT_EQ(0, count_inside(block, map, 2 * PAGES));		\
	EXPECT_EQ(2 * PAGES, ksm_count_merged(getpid(), map, 2 * PAGES)); \
	EXPECT_EQ(PAGES, ksm_count_shared(map, page(map, PAGES), PAGES)); \
	EXPECT_CONTENT(map, seed);					\
} while (0)

TEST_F(block, merged_pages_move_out_and_are_still_found)
{
	char *map = merge_inside(&self->block, SEED), *twins;

	ASSERT_NE(NULL, map);
	ASSERT_TRUE(go_offline(&self->block));
	EXPECT_MERGED_OUTSIDE(&self->block, map, SEED);
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));

	for (unsigned int round = 1; round <= 2; round++) {
		twins = new_twins(SEED);
		ASSERT_NE(NULL, twins);
		ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
		EXPECT_EQ(PAGES, ksm_count_shared(map, twins, PAGES));
		EXPECT_EQ(PAGES, ksm_get("pages_shared"));
		EXPECT_EQ((1 + round) * PAGES, ksm_get("pages_sharing"));
		EXPECT_EQ(-1, ksm_first_wrong(twins, PAGES, SEED, 1));
		EXPECT_MERGED_OUTSIDE(&self->block, map, SEED);
		ASSERT_TRUE(is_in_state(&self->block, "online") || go_online(&self->block));
	}
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(0, ksm_count_merged(getpid(), map, 2 * PAGES));
	EXPECT_EQ(2 * PAGES, ksm_count_frames(getpid(), map, 2 * PAGES));
	EXPECT_CONTENT(map, SEED);
}

TEST_F(block, pages_of_a_child_that_ksm_knows_nothing_of_move_too)
{
	char *map = merge_inside(&self->block, SEED);
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_NE(NULL, map);
	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, map, 2 * PAGES));
	ASSERT_TRUE(go_offline(&self->block));
	EXPECT_MERGED_OUTSIDE(&self->block, map, SEED);
	for (size_t i = 0; i < 2 * PAGES; i++)
		EXPECT_EQ(ksm_pfn(getpid(), page(map, i)), ksm_pfn(worker->pid, page(map, i)));
	EXPECT_EQ(0, ksm_ask(worker, ksm_job_advise, MADV_UNMERGEABLE, 0, 0));
	EXPECT_EQ(0, ksm_count_merged(worker->pid, map, 2 * PAGES));
	worker->pages = PAGES;
	EXPECT_EQ(-1, ksm_ask(worker, ksm_job_first_wrong, SEED, 1, 0));
	worker->map = page(map, PAGES);
	EXPECT_EQ(-1, ksm_ask(worker, ksm_job_first_wrong, SEED, 1, 0));
	EXPECT_MERGED_OUTSIDE(&self->block, map, SEED);
}

TEST_F(block, candidates_move_out_and_find_partners)
{
	char *map = map_inside(&self->block), *twins;

	ASSERT_NE(NULL, map);
	ksm_fill(map, 2 * PAGES, SEED, 1);
	ASSERT_EQ(0, ksm_mergeable(map, 2 * PAGES));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(2 * PAGES, ksm_get("pages_unshared"));
	ASSERT_TRUE(go_offline(&self->block));
	EXPECT_EQ(0, count_inside(&self->block, map, 2 * PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(map, 2 * PAGES, SEED, 1));

	twins = new_twins(SEED);
	ASSERT_NE(NULL, twins);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES, ksm_count_shared(map, twins, PAGES));
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
	EXPECT_EQ(PAGES, ksm_get("pages_unshared"));
	EXPECT_EQ(-1, ksm_first_wrong(map, 2 * PAGES, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(twins, PAGES, SEED, 1));
}

/* Nothing tells KSM that merged pages are freed, and ksmd is off and cannot see it. */
TEST_F(block, merged_pages_that_were_freed_do_no_harm_in_the_block)
{
	char *map = merge_inside(&self->block, SEED);

	ASSERT_NE(NULL, map);
	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_EQ(0, madvise(map, 2 * PAGES * psize(), MADV_DONTNEED));
	ASSERT_TRUE(go_offline(&self->block));
	/* A lookup meets them while the memory is not there ... */
	fill_twice(map, SEED);
	EXPECT_EQ(0, count_inside(&self->block, map, 2 * PAGES));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_MERGED_OUTSIDE(&self->block, map, SEED);
	EXPECT_EQ(2 * PAGES, ksm_get("pages_shared") + ksm_get("pages_sharing"));

	/* ... and when it is again, with the same contents in it. */
	ASSERT_EQ(0, munmap(map, 2 * PAGES * psize()));
	ASSERT_TRUE(go_online(&self->block));
	map = merge_inside(&self->block, SEED + PAGES);
	ASSERT_NE(NULL, map);
	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_EQ(0, munmap(map, 2 * PAGES * psize()));
	ASSERT_TRUE(go_offline(&self->block) && go_online(&self->block));
	map = merge_inside(&self->block, SEED + PAGES);
	ASSERT_NE(NULL, map);
	EXPECT_CONTENT(map, SEED + PAGES);
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
}

/* Writes the same over and over, until the test clears the first argument. */
static long job_rewrite(struct ksm_worker *worker, long unused, long seed, long unused2)
{
	volatile long *go_on = &worker->arg[0];
	long wrong = -1;

	while (*go_on && wrong < 0) {
		fill_twice(worker->map, seed);
		wrong = ksm_first_wrong(worker->map, PAGES, seed, 1);
	}
	return wrong;
}

TEST_F(block, cycles_lose_nothing_while_ksmd_runs_and_pages_are_written)
{
	struct ksm_worker *worker = self->ksm.workers;
	char *map[CYCLES];

	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 0));
	for (unsigned int i = 0; i < CYCLES; i++) {
		map[i] = merge_inside(&self->block, SEED + i * PAGES);
		ASSERT_NE(NULL, map[i]);
		ASSERT_TRUE(ksm_fork_worker(&self->ksm, i, map[i], 2 * PAGES));
		ASSERT_EQ(0, ksm_send(&worker[i], job_rewrite, true, SEED + i * PAGES, 0));
		ASSERT_TRUE(go_offline(&self->block));
		for (unsigned int j = 0; j <= i; j++)
			EXPECT_MERGED_OUTSIDE(&self->block, map[j], SEED + j * PAGES);
		worker[i].arg[0] = false;
		EXPECT_EQ(-1, ksm_receive(&worker[i]));
		ASSERT_TRUE(go_online(&self->block));
	}
	/* What the children wrote merges with what they were forked with. */
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 1));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(CYCLES * PAGES, ksm_get("pages_shared"));
	for (unsigned int i = 0; i < CYCLES; i++) {
		EXPECT_EQ(2 * PAGES, ksm_count_merged(worker[i].pid, map[i], 2 * PAGES));
		EXPECT_EQ(ksm_pfn(getpid(), map[i]), ksm_pfn(worker[i].pid, map[i]));
		EXPECT_CONTENT(map[i], SEED + i * PAGES);
	}
}

/* A page that a pipe holds cannot move, so that the block cannot go offline. */
TEST_F(block, ksmd_goes_on_after_offlining_was_given_up)
{
	char *map = merge_inside(&self->block, SEED), *twins;
	char *held = map_inside(&self->block);
	struct iovec part = { .iov_base = held, .iov_len = psize() };
	int ends[2];

	ASSERT_NE(NULL, map);
	ASSERT_NE(NULL, held);
	ASSERT_EQ(0, pipe(ends));
	ASSERT_EQ(psize(), vmsplice(ends[1], &part, 1, 0));
	for (unsigned int i = 0; i < 2; i++) {
		EXPECT_EQ(-EINTR, try_state(&self->block, "offline", 1));
		EXPECT_TRUE(is_in_state(&self->block, "online"));
		twins = new_twins(SEED);
		ASSERT_NE(NULL, twins);
		ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
		EXPECT_EQ(PAGES, ksm_count_shared(map, twins, PAGES));
		EXPECT_EQ(-1, ksm_first_wrong(twins, PAGES, SEED, 1));
		EXPECT_CONTENT(map, SEED);
	}
	close(ends[0]);
	close(ends[1]);
	ASSERT_TRUE(go_offline(&self->block));
	EXPECT_MERGED_OUTSIDE(&self->block, map, SEED);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
}

TEST_F(block, pages_kept_apart_by_node_are_found_on_the_node_they_went_to)
{
	char *map, *twins[2];
	int node[2];

	if (self->block.node < 0 || !ksm_find_two_nodes(node))
		SKIP(return, "needs two NUMA nodes with memory");
	ASSERT_EQ(0, ksm_set("merge_across_nodes", "0"));
	map = merge_inside(&self->block, SEED);
	ASSERT_NE(NULL, map);
	ASSERT_TRUE(go_offline(&self->block));
	EXPECT_MERGED_OUTSIDE(&self->block, map, SEED);
	for (int i = 0; i < 2; i++) {
		twins[i] = ksm_map_fenced(PAGES);
		ASSERT_NE(NULL, twins[i]);
		ASSERT_EQ(0, ksm_bind(twins[i], PAGES, node[i], 0));
		ASSERT_EQ(0, ksm_mergeable(twins[i], PAGES));
		ksm_fill(twins[i], PAGES, SEED, 1);
	}
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	for (size_t i = 0; i < PAGES; i++) {
		int here = ksm_node_of(page(map, i)) == node[1];

		EXPECT_EQ(node[here], ksm_node_of(page(map, i)));
		EXPECT_EQ(1, ksm_count_shared(page(map, i), page(twins[here], i), 1));
		EXPECT_EQ(0, ksm_count_merged(getpid(), page(twins[!here], i), 1));
	}
	EXPECT_EQ(PAGES, ksm_get("pages_unshared"));
	EXPECT_MERGED_OUTSIDE(&self->block, map, SEED);
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(-1, ksm_first_wrong(twins[i], PAGES, SEED, 1));
}

TEST_HARNESS_MAIN
