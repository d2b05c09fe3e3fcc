// SPDX-License-Identifier: GPL-2.0-only
/*
 * Merging and userfaultfd: protection that a monitor asked for lives on when pages
 * merge and when they are unmerged, and an access still raises its event. Who tracks
 * writes without a monitor, by userfaultfd or by soft-dirty bits, sees none where
 * nobody but KSM changed the page tables. See ksm_uffd_fill.c for what a monitor
 * puts into memory.
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
#define SEED		1000
#define OTHER		2000
#define MAX_EVENTS	256

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

static size_t marked(char *map, size_t pages, uint64_t bit)
{
	return ksm_count_marked(getpid(), map, pages, bit);
}

/* The monitor: a thread that notes each fault and lets it go on. */
static struct {
	int uffd;
	struct uffd_msg events[MAX_EVENTS];
	unsigned int count;
} monitor;

static unsigned int events(void)
{
	return __atomic_load_n(&monitor.count, __ATOMIC_ACQUIRE);
}

/* Each of these: 0 or -errno. */

static int protect(char *map, size_t pages, bool on)
{
	struct uffdio_writeprotect arg = {
		.range = { .start = (uintptr_t)map, .len = pages * psize() },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ioctl(monitor.uffd, UFFDIO_WRITEPROTECT, &arg) ? -errno : 0;
}

/* As protect(), but reads are trapped, too. */
static int hide(char *map, size_t pages, bool on)
{
	struct uffdio_rwprotect arg = {
		.range = { .start = (uintptr_t)map, .len = pages * psize() },
		.mode = on ? UFFDIO_RWPROTECT_MODE_RWP : 0,
	};

	return ioctl(monitor.uffd, UFFDIO_RWPROTECT, &arg) ? -errno : 0;
}

static void *serve_faults(void *unused)
{
	struct pollfd event = { .fd = monitor.uffd, .events = POLLIN };

	for (;;) {
		unsigned int count = events();
		struct uffd_msg *msg = &monitor.events[count % MAX_EVENTS];
		char *at;

		if (poll(&event, 1, -1) != 1 || read(monitor.uffd, msg, sizeof(*msg)) <= 0)
			continue;
		at = (char *)(uintptr_t)(msg->arg.pagefault.address & ~(psize() - 1ULL));
		__atomic_store_n(&monitor.count, count + 1, __ATOMIC_RELEASE);
		if (msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP)
			protect(at, 1, false);
		else
			hide(at, 1, false);
	}
	return NULL;
}

/* Whether the kernel has the features; the rest cannot fail where userfaultfd is. */
static bool start_monitor(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	pthread_t thread;

	monitor.uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (monitor.uffd < 0 || ioctl(monitor.uffd, UFFDIO_API, &api) ||
	    (api.features & features) != features)
		return false;
	return !pthread_create(&thread, NULL, serve_faults, NULL);
}

static bool watch(char *map, uint64_t mode)
{
	struct uffdio_register arg = {
		.range = { .start = (uintptr_t)map, .len = PAGES * psize() },
		.mode = mode,
	};

	return !ioctl(monitor.uffd, UFFDIO_REGISTER, &arg);
}

/* PAGES registered pages, write-protected by a monitor before or after they are merged. */
FIXTURE(protected)
{
	struct ksm_test ksm;
	char *map;
};

FIXTURE_VARIANT(protected)
{
	bool first;	/* protected, then merged */
};

FIXTURE_VARIANT_ADD(protected, before_merging) { .first = true };
FIXTURE_VARIANT_ADD(protected, after_merging) { .first = false };

FIXTURE_SETUP(protected)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	if (!start_monitor(UFFD_FEATURE_PAGEFAULT_FLAG_WP))
		SKIP(return, "this kernel cannot write-protect by userfaultfd");
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->map = ksm_map_registered(PAGES);
	ASSERT_NE(NULL, self->map);
	ksm_fill(self->map, PAGES, SEED, 0);
	ASSERT_TRUE(watch(self->map, UFFDIO_REGISTER_MODE_WP));
	if (variant->first)
		ASSERT_EQ(0, protect(self->map, PAGES, true));
	ASSERT_TRUE(ksm_merge_all());
	if (!variant->first)
		ASSERT_EQ(0, protect(self->map, PAGES, true));
	ASSERT_EQ(1, frames(self->map, PAGES));
	ASSERT_EQ(PAGES, marked(self->map, PAGES, PM_UFFD_WP));
	ASSERT_EQ(0, events());
}

FIXTURE_TEARDOWN_PARENT(protected)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

/* Writes each page anew: does every first write to it raise an event of its own? */
static void write_all(struct __test_metadata *_metadata, char *map)
{
	for (size_t i = 0; i < PAGES; i++) {
		struct uffd_msg *msg = &monitor.events[i];

		ksm_fill(page(map, i), 1, OTHER + i, 0);
		ASSERT_EQ(i + 1, events());
		EXPECT_EQ(UFFD_EVENT_PAGEFAULT, msg->event);
		EXPECT_TRUE(msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP);
		EXPECT_EQ((uintptr_t)page(map, i), msg->arg.pagefault.address);
		EXPECT_EQ(PAGES - i - 1, marked(map, PAGES, PM_UFFD_WP));
		EXPECT_EQ(-1, ksm_first_wrong(map, i + 1, OTHER, 1));
		EXPECT_EQ(-1, ksm_first_wrong(page(map, i + 1), PAGES - i - 1, SEED, 0));
	}
}

TEST_F(protected, merged_page_tells_of_each_write)
{
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
	EXPECT_EQ(0, events());
	write_all(_metadata, self->map);
	/* Unprotected by now: equal again, they merge again, and no event comes. */
	ksm_fill(self->map, PAGES, SEED, 0);
	EXPECT_TRUE(ksm_wait_until(frames(self->map, PAGES) == 1));
	EXPECT_EQ(0, marked(self->map, PAGES, PM_UFFD_WP));
	ksm_fill(self->map, PAGES, SEED, 0);
	EXPECT_EQ(PAGES, events());
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

TEST_F(protected, page_unmerged_by_madvise_is_protected_still)
{
	ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
	EXPECT_EQ(0, merged(self->map, PAGES));
	EXPECT_EQ(PAGES, frames(self->map, PAGES));
	EXPECT_EQ(PAGES, marked(self->map, PAGES, PM_UFFD_WP));
	EXPECT_EQ(0, events());
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
	write_all(_metadata, self->map);
}

TEST_F(protected, page_unmerged_by_run_2_is_protected_still)
{
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(0, merged(self->map, PAGES));
	EXPECT_EQ(PAGES, frames(self->map, PAGES));
	EXPECT_EQ(PAGES, marked(self->map, PAGES, PM_UFFD_WP));
	EXPECT_EQ(0, events());
	/* And merges again as it is. */
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(1, frames(self->map, PAGES));
	EXPECT_EQ(PAGES, marked(self->map, PAGES, PM_UFFD_WP));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
	write_all(_metadata, self->map);
}

TEST_F(protected, half_is_marked_and_the_other_half_is_not)
{
	ASSERT_EQ(0, protect(self->map, PAGES / 2, false));
	EXPECT_EQ(0, marked(self->map, PAGES / 2, PM_UFFD_WP));
	EXPECT_EQ(PAGES / 2, marked(page(self->map, PAGES / 2), PAGES / 2, PM_UFFD_WP));
	ASSERT_TRUE(ksm_wait_passes(MANY_PASSES));
	EXPECT_EQ(1, frames(self->map, PAGES));
	ksm_fill(self->map, PAGES / 2, OTHER, 1);
	EXPECT_EQ(0, events());
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(0, marked(self->map, PAGES / 2, PM_UFFD_WP));
	EXPECT_EQ(PAGES / 2, marked(page(self->map, PAGES / 2), PAGES / 2, PM_UFFD_WP));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES / 2, OTHER, 1));
	EXPECT_EQ(-1, ksm_first_wrong(page(self->map, PAGES / 2), PAGES / 2, SEED, 0));
}

TEST_F(protected, page_is_plain_memory_after_the_monitor_left)
{
	ASSERT_EQ(0, uffd_unregister(monitor.uffd, self->map, PAGES * psize()));
	EXPECT_EQ(0, marked(self->map, PAGES, PM_UFFD_WP));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
	ksm_fill(self->map, PAGES, OTHER, 1);
	EXPECT_EQ(0, events());
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, OTHER, 1));
}

/* PAGES equal pages in memory where even reads can be trapped. */
FIXTURE(hidden)
{
	struct ksm_test ksm;
	char *map;
};

FIXTURE_SETUP(hidden)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	if (!start_monitor(UFFD_FEATURE_RWP))
		SKIP(return, "this kernel cannot protect against reading by userfaultfd");
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->map = ksm_map_registered(PAGES);
	ASSERT_NE(NULL, self->map);
	ksm_fill(self->map, PAGES, SEED, 0);
	ASSERT_TRUE(watch(self->map, UFFDIO_REGISTER_MODE_RWP));
}

FIXTURE_TEARDOWN_PARENT(hidden)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

TEST_F(hidden, page_is_hidden_after_its_equals_merged)
{
	ASSERT_EQ(0, hide(self->map, PAGES / 2, true));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(1, frames(page(self->map, PAGES / 2), PAGES / 2));
	EXPECT_EQ(0, events());
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES / 2, SEED, 0));
	EXPECT_EQ(PAGES / 2, events());
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
	EXPECT_EQ(PAGES / 2, events());
	EXPECT_TRUE(ksm_wait_until(frames(self->map, PAGES) == 1));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

TEST_F(hidden, merged_page_tells_of_each_read_and_stays_merged)
{
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(1, frames(self->map, PAGES));
	ASSERT_EQ(0, hide(self->map, PAGES, true));
	ASSERT_TRUE(ksm_wait_passes(MANY_PASSES));
	EXPECT_EQ(0, events());
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
	EXPECT_EQ(PAGES, events());
	EXPECT_EQ(1, frames(self->map, PAGES));
	EXPECT_EQ(PAGES, merged(self->map, PAGES));
}

/* The fault that gives a page its own copy is one that the monitor wants to see. */
TEST_F(hidden, page_is_unmerged_or_the_call_says_that_it_is_not)
{
	int result;

	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(1, frames(self->map, PAGES));
	ASSERT_EQ(0, hide(self->map, PAGES, true));
	result = ksm_set("run", "2");
	EXPECT_TRUE(result == -EBUSY || !merged(self->map, PAGES));
	EXPECT_EQ(result ? 0 : 2, ksm_get("run"));
	EXPECT_TRUE(ksm_check());
	result = ksm_unmergeable(self->map, PAGES);
	EXPECT_TRUE(result == -EBUSY || !merged(self->map, PAGES));
	EXPECT_TRUE(ksm_check());
	EXPECT_EQ((long)merged(self->map, PAGES),
		  ksm_get("pages_shared") + ksm_get("pages_sharing"));
	ASSERT_EQ(0, hide(self->map, PAGES, false));
	EXPECT_EQ(0, ksm_unmergeable(self->map, PAGES));
	EXPECT_EQ(0, merged(self->map, PAGES));
	EXPECT_EQ(PAGES, frames(self->map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

/* PAGES equal pages; writes to them are noted by the kernel, by either means. */
FIXTURE(tracked)
{
	struct ksm_test ksm;
	char *map;
};

FIXTURE_VARIANT(tracked)
{
	bool async;	/* userfaultfd's own tracking, not soft-dirty bits */
};

FIXTURE_VARIANT_ADD(tracked, by_soft_dirty) { .async = false };
FIXTURE_VARIANT_ADD(tracked, by_userfaultfd) { .async = true };

FIXTURE_SETUP(tracked)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	if (variant->async ? !start_monitor(UFFD_FEATURE_WP_ASYNC) : !softdirty_supported())
		SKIP(return, "this kernel cannot track writes this way");
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->map = ksm_map_registered(PAGES);
	ASSERT_NE(NULL, self->map);
	ksm_fill(self->map, PAGES, SEED, 0);
	ASSERT_TRUE(!variant->async || watch(self->map, UFFDIO_REGISTER_MODE_WP));
}

FIXTURE_TEARDOWN_PARENT(tracked)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

static void start_tracking(bool async, char *map)
{
	if (async)
		protect(map, PAGES, true);
	else
		clear_softdirty();
}

static size_t written(bool async, char *map, size_t pages)
{
	return async ? pages - marked(map, pages, PM_UFFD_WP) : marked(map, pages, PM_SOFT_DIRTY);
}

TEST_F(tracked, page_is_written_to_by_neither_merging_nor_unmerging)
{
	start_tracking(variant->async, self->map);
	ASSERT_EQ(0, written(variant->async, self->map, PAGES));
	for (unsigned int round = 0; round < 3; round++) {
		ASSERT_TRUE(ksm_merge_all());
		ASSERT_EQ(1, frames(self->map, PAGES));
		EXPECT_EQ(0, written(variant->async, self->map, PAGES));
		ASSERT_EQ(0, ksm_set("run", "2"));
		EXPECT_EQ(PAGES, frames(self->map, PAGES));
		EXPECT_EQ(0, written(variant->async, self->map, PAGES));
	}
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

TEST_F(tracked, write_is_not_forgotten_when_the_page_merges)
{
	char *rest = page(self->map, PAGES / 2);

	start_tracking(variant->async, self->map);
	ksm_fill(self->map, PAGES / 2, SEED, 0);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(1, frames(self->map, PAGES));
	EXPECT_EQ(PAGES / 2, written(variant->async, self->map, PAGES / 2));
	EXPECT_EQ(0, written(variant->async, rest, PAGES / 2));
	ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
	EXPECT_EQ(PAGES / 2, written(variant->async, self->map, PAGES / 2));
	EXPECT_EQ(0, written(variant->async, rest, PAGES / 2));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

TEST_F(tracked, write_to_a_merged_page_is_noted_for_that_page_only)
{
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(1, frames(self->map, PAGES));
	start_tracking(variant->async, self->map);
	ASSERT_EQ(0, written(variant->async, self->map, PAGES));
	for (size_t i = 0; i < PAGES; i++) {
		ksm_fill(page(self->map, i), 1, OTHER + i, 0);
		EXPECT_EQ(i + 1, written(variant->async, self->map, PAGES));
		EXPECT_EQ(-1, ksm_first_wrong(self->map, i + 1, OTHER, 1));
		EXPECT_EQ(-1, ksm_first_wrong(page(self->map, i + 1), PAGES - i - 1, SEED, 0));
	}
}

TEST_HARNESS_MAIN
