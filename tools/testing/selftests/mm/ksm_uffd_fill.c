// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a userfaultfd monitor puts into memory merges like all else; what it asks to
 * be moved is at exactly one of the two places afterwards, merged or not; and merged
 * pages that are discarded are asked of the monitor like any other.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include "ksm_util.h"
#include "vm_util.h"

#define PAGES		16
#define MANY_PASSES	20
#define ROUNDS		200
#define SEED		1000
#define ANSWER		3000	/* what the monitor fills missing pages with */

static char *page(char *map, size_t index)
{
	return map + index * psize();
}

static unsigned long pfn(char *map, size_t index)
{
	return ksm_pfn(getpid(), page(map, index));
}

static size_t merged(char *map, size_t pages)
{
	return ksm_count_merged(getpid(), map, pages);
}

static size_t frames(char *map, size_t pages)
{
	return ksm_count_frames(getpid(), map, pages);
}

static size_t present(char *map, size_t pages)
{
	return ksm_count_present(getpid(), map, pages);
}

static bool is_empty(char *map, size_t pages)
{
	for (size_t i = 0; i < pages * psize(); i++)
		if (map[i])
			return false;
	return true;
}

static struct {
	int uffd;
	uint64_t ioctls;	/* that the last registered memory knows, by bit */
	char *answer;
	char *last;		/* address of the last fault */
	unsigned int count;
} monitor;

static unsigned int events(void)
{
	return __atomic_load_n(&monitor.count, __ATOMIC_ACQUIRE);
}

/* Each of these: 0 or -errno. */

static int copy(char *to, const char *from, size_t pages)
{
	struct uffdio_copy arg = {
		.dst = (uintptr_t)to,
		.src = (uintptr_t)from,
		.len = pages * psize(),
	};

	return ioctl(monitor.uffd, UFFDIO_COPY, &arg) ? -errno : 0;
}

static int zero(char *to, size_t pages)
{
	struct uffdio_zeropage arg = {
		.range = { .start = (uintptr_t)to, .len = pages * psize() },
	};

	return ioctl(monitor.uffd, UFFDIO_ZEROPAGE, &arg) ? -errno : 0;
}

static int move(char *to, char *from)
{
	struct uffdio_move arg = {
		.dst = (uintptr_t)to,
		.src = (uintptr_t)from,
		.len = psize(),
	};

	return ioctl(monitor.uffd, UFFDIO_MOVE, &arg) ? -errno : 0;
}

/* Notes each fault, and answers it. */
static void *serve_faults(void *unused)
{
	struct pollfd event = { .fd = monitor.uffd, .events = POLLIN };
	struct uffd_msg msg;

	for (;;) {
		if (poll(&event, 1, -1) != 1 || read(monitor.uffd, &msg, sizeof(msg)) <= 0)
			continue;
		monitor.last = (char *)(uintptr_t)(msg.arg.pagefault.address & ~(psize() - 1ULL));
		__atomic_add_fetch(&monitor.count, 1, __ATOMIC_RELEASE);
		copy(monitor.last, monitor.answer, 1);
	}
	return NULL;
}

static bool start_monitor(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	pthread_t thread;

	monitor.uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (monitor.uffd < 0 || ioctl(monitor.uffd, UFFDIO_API, &api))
		return false;
	monitor.answer = ksm_map_pages(1);
	ksm_fill(monitor.answer, 1, ANSWER, 0);
	return !pthread_create(&thread, NULL, serve_faults, NULL);
}

/* From now on the monitor is asked for what is not there. */
static bool watch(char *map)
{
	return !uffd_register_with_ioctls(monitor.uffd, map, PAGES * psize(), true, false,
					  false, &monitor.ioctls);
}

static bool can_move(void)
{
	return monitor.ioctls & (1ULL << _UFFDIO_MOVE);
}

FIXTURE(watched)
{
	struct ksm_test ksm;
	char *twin;	/* PAGES, each different, registered */
	char *map;	/* PAGES, nothing there, registered, asked of the monitor */
	char *other;	/* the same */
};

static char *map_watched(void)
{
	char *map = ksm_map_fenced(PAGES);

	return map && !ksm_mergeable(map, PAGES) && watch(map) ? map : NULL;
}

FIXTURE_SETUP(watched)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	if (!start_monitor())
		SKIP(return, "this kernel has no userfaultfd");
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->twin = ksm_map_fenced(PAGES);
	ASSERT_NE(NULL, self->twin);
	ASSERT_EQ(0, ksm_mergeable(self->twin, PAGES));
	ksm_fill(self->twin, PAGES, SEED, 1);
	self->map = map_watched();
	self->other = map_watched();
	ASSERT_NE(NULL, self->map);
	ASSERT_NE(NULL, self->other);
}

FIXTURE_TEARDOWN_PARENT(watched)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

/* Copies of the twins, merged with them. */
static bool merge_copies(char *map, char *twin)
{
	return !copy(map, twin, PAGES) && ksm_merge_all() && merged(map, PAGES) == PAGES &&
	       merged(twin, PAGES) == PAGES && ksm_get("pages_sharing") == PAGES;
}

TEST_F(watched, page_that_was_copied_in_merges)
{
	ASSERT_TRUE(merge_copies(self->map, self->twin));
	for (size_t i = 0; i < PAGES; i++)
		EXPECT_EQ(pfn(self->twin, i), pfn(self->map, i));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, PAGES, SEED, 1));
	EXPECT_EQ(0, events());
	EXPECT_EQ(0, present(self->other, PAGES));
}

TEST_F(watched, merged_page_is_not_copied_over)
{
	ASSERT_TRUE(merge_copies(self->map, self->twin));
	EXPECT_EQ(-EEXIST, copy(self->map, monitor.answer, 1));
	EXPECT_EQ(-EEXIST, zero(self->map, 1));
	EXPECT_EQ(PAGES, merged(self->map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, PAGES, SEED, 1));
}

TEST_F(watched, merged_page_that_is_discarded_is_asked_of_the_monitor)
{
	ASSERT_TRUE(merge_copies(self->map, self->twin));
	ASSERT_EQ(0, madvise(self->map, PAGES * psize(), MADV_DONTNEED));
	for (size_t i = 0; i < PAGES; i++) {
		EXPECT_EQ(-1, ksm_first_wrong(page(self->map, i), 1, ANSWER, 0));
		EXPECT_EQ(i + 1, events());
		EXPECT_EQ(page(self->map, i), monitor.last);
	}
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, PAGES, SEED, 1));
	/* What the monitor gave is equal: it merges. */
	EXPECT_TRUE(ksm_wait_until(frames(self->map, PAGES) == 1));
	EXPECT_EQ(PAGES, events());
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, ANSWER, 0));
}

TEST_F(watched, hole_is_touched_by_neither_merging_nor_unmerging)
{
	ASSERT_EQ(0, copy(self->map, self->twin, PAGES / 2));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(PAGES / 2, merged(self->map, PAGES));
	ASSERT_TRUE(ksm_wait_passes(MANY_PASSES));
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(0, merged(self->map, PAGES));
	EXPECT_EQ(PAGES / 2, present(self->map, PAGES));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
	EXPECT_EQ(0, merged(self->map, PAGES));
	EXPECT_EQ(PAGES / 2, present(self->map, PAGES));
	EXPECT_EQ(0, events());
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES / 2, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, PAGES, SEED, 1));
}

/* The zero page that the monitor asked for is not one that KSM saved. */
TEST_F(watched, zero_page_of_the_monitor_is_not_ksm_s)
{
	ASSERT_EQ(0, ksm_set("use_zero_pages", "1"));
	ASSERT_EQ(0, zero(self->map, PAGES));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(0, ksm_get("ksm_zero_pages"));
	EXPECT_EQ(0, ksm_proc_stat(getpid(), "ksm_zero_pages"));
	EXPECT_EQ(0, merged(self->map, PAGES));
	EXPECT_TRUE(is_empty(self->map, PAGES));
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_TRUE(is_empty(self->map, PAGES));
	ksm_fill(self->map, PAGES, SEED, 1);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(PAGES, merged(self->map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, PAGES, SEED, 1));
	EXPECT_EQ(0, events());
}

/* Tries to move one page; is it at one place only now, and holds what it held? */
static bool moves_or_stays(char *to, char *from, uint64_t content, bool *moved)
{
	*moved = !move(to, from);
	return present(to, 1) == *moved && present(from, 1) == !*moved &&
	       ksm_first_wrong(*moved ? to : from, 1, content, 0) == -1;
}

TEST_F(watched, merged_page_moves_or_stays_as_a_whole)
{
	bool moved;

	if (!can_move())
		SKIP(return, "this kernel cannot move pages by userfaultfd");
	ASSERT_TRUE(merge_copies(self->map, self->twin));
	for (size_t i = 0; i < PAGES; i++) {
		char *to = page(self->other, i), *from = page(self->map, i);

		EXPECT_TRUE(moves_or_stays(to, from, SEED + i, &moved));
		if (moved)
			continue;
		/* Once it is the process's own there is nothing in the way. */
		ksm_fill(from, 1, SEED + i, 0);
		EXPECT_TRUE(ksm_wait_until((moves_or_stays(to, from, SEED + i, &moved), moved) ||
					   (ksm_fill(from, 1, SEED + i, 0), false)));
		EXPECT_EQ(-1, ksm_first_wrong(to, 1, SEED + i, 0));
	}
	EXPECT_EQ(0, present(self->map, PAGES));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	for (size_t i = 0; i < PAGES; i++)
		EXPECT_EQ(pfn(self->twin, i), pfn(self->other, i));
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
	EXPECT_EQ(-1, ksm_first_wrong(self->other, PAGES, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, PAGES, SEED, 1));
	EXPECT_EQ(0, events());
}

TEST_F(watched, page_moves_or_stays_as_a_whole_while_ksmd_races)
{
	bool at_other[PAGES] = { 0 }, moved;
	size_t moves = 0;

	if (!can_move())
		SKIP(return, "this kernel cannot move pages by userfaultfd");
	ASSERT_EQ(0, copy(self->map, self->twin, PAGES));
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 0));
	ASSERT_EQ(0, ksm_set("run", "1"));
	for (unsigned int round = 0; round < ROUNDS; round++) {
		size_t i = round % PAGES;
		char *from = page(at_other[i] ? self->other : self->map, i);
		char *to = page(at_other[i] ? self->map : self->other, i);

		/* ksmd is now before, in the middle of, or after merging it. */
		if (round % 3)
			ksm_fill(from, 1, SEED + i, 0);
		if (round % 3 == 2)
			ASSERT_TRUE(ksm_wait_passes(1));
		ASSERT_TRUE(moves_or_stays(to, from, SEED + i, &moved));
		at_other[i] ^= moved;
		moves += moved;
	}
	EXPECT_GT(moves, 0);
	for (size_t i = 0; i < PAGES; i++)
		EXPECT_EQ(-1, ksm_first_wrong(page(at_other[i] ? self->other : self->map, i), 1,
					      SEED + i, 0));
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, PAGES, SEED, 1));
	EXPECT_EQ(0, events());
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
}

TEST_F(watched, moved_zero_page_of_ksm_is_counted_once_at_most)
{
	long left = 0;

	if (!can_move())
		SKIP(return, "this kernel cannot move pages by userfaultfd");
	ASSERT_EQ(0, ksm_set("use_zero_pages", "1"));
	memset(monitor.answer, 0, psize());
	for (size_t i = 0; i < PAGES; i++)
		ASSERT_EQ(0, copy(page(self->map, i), monitor.answer, 1));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(PAGES, ksm_proc_stat(getpid(), "ksm_zero_pages"));
	ASSERT_EQ(0, ksm_set("run", "0"));
	for (size_t i = 0; i < PAGES; i++) {
		char *to = page(self->other, i), *from = page(self->map, i);

		left += !!move(to, from);
		EXPECT_TRUE(is_empty(to, 1));
		EXPECT_EQ(-1, ksm_first_wrong(page(self->twin, i), 1, SEED + i, 0));
	}
	/* Nothing but the zero page kept it there, and that can be moved. */
	EXPECT_EQ(0, left);
	EXPECT_EQ(0, events());
	ksm_fill(self->other, PAGES, SEED, 1);
	EXPECT_EQ(0, ksm_proc_stat(getpid(), "ksm_zero_pages"));
	EXPECT_EQ(0, ksm_get("ksm_zero_pages"));
	EXPECT_EQ(-1, ksm_first_wrong(self->other, PAGES, SEED, 1));
}

TEST_HARNESS_MAIN
