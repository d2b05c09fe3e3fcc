// SPDX-License-Identifier: GPL-2.0-only
/*
 * How long ksmd holds up others: it goes through an address space in many short
 * holds of its lock, however that is made up, and who unmaps memory or exits waits for
 * one of them at most. KSM_HOLD_VMAS=1000000 in the environment makes more VMAs.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include "ksm_util.h"
#include "vm_util.h"

#define TRACEFS		"/sys/kernel/tracing"
#define EVENTS		"events/mmap_lock/mmap_lock_"
#define MAX_MAP_COUNT	"/proc/sys/vm/max_map_count"
#define COUNTS		"/sys/kernel/debug/ksm/work"

#define SEED		1000

/* More than a process may have by default. */
#define VMAS		70000
#define OTHER_VMAS	1000	/* the program's own, and some to spare */

/* What a hold goes over at most, of VMAs, page tables and holes among these. */
#define MOST_AT_ONCE		512

/* Pages that one hold hashes, or passes over, at most. */
#define BATCH_HASHED		128
#define BATCH_PASSED_OVER	(64 * BATCH_HASHED)

/* A batch and some more that may go by between two looks at what was scanned. */
#define FEW_PAGES	(4 * BATCH_HASHED)

#define TRIES		16

static int write_number(const char *path, long number)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", number);
	return ksm_write_text(path, text);
}

static size_t nr_vmas(void)
{
	const char *text = getenv("KSM_HOLD_VMAS");

	return text ? strtoul(text, NULL, 0) : VMAS;
}

/* ---- address spaces of many parts ---- */

/**
 * struct many - memory of many parts
 * @map: where it begins
 * @parts: how many there are that cost something to pass over
 * @pages: how many have contents: numbers SEED, SEED + 1 and so on
 * @stride: bytes from one of these to the next
 */
struct many {
	char *map;
	size_t parts;
	size_t pages;
	size_t stride;
};

static bool map_many(struct many *many, size_t size)
{
	many->map = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (many->map == MAP_FAILED)
		return false;
	/* Not in all kernels. */
	madvise(many->map, size, MADV_NOHUGEPAGE);
	return true;
}

static void fill_many(struct many *many)
{
	for (size_t i = 0; i < many->pages; i++)
		ksm_fill(many->map + i * many->stride, 1, SEED + i, 0);
}

static bool many_are_right(const struct many *many)
{
	for (size_t i = 0; i < many->pages; i++)
		if (ksm_first_wrong(many->map + i * many->stride, 1, SEED + i, 0) != -1)
			return false;
	return true;
}

/* As many VMAs as there may be, each second one registered and with its page. */
static bool make_tiny_vmas(struct many *many)
{
	size_t vmas = nr_vmas(), i;

	many->pages = vmas / 2;
	many->stride = 2 * psize();
	if (!map_many(many, vmas * psize()))
		return false;
	fill_many(many);
	for (i = 0; i < vmas; i += 2)
		if (madvise(many->map + i * psize(), psize(), MADV_MERGEABLE))
			break;
	many->parts = i;
	/* The last ones did not fit. */
	return errno == EAGAIN && i > vmas - 2 * OTHER_VMAS;
}

/* Splits memory into VMAs of one page. */
static bool split_into_pages(char *map, size_t pages)
{
	for (size_t i = 0; i < pages; i += 2)
		if (mprotect(map + i * psize(), psize(), PROT_READ))
			return false;
	return true;
}

/* VMAs that take no part, and behind them a page that does. */
static bool map_other_vmas(struct many *many, size_t vmas)
{
	many->parts = vmas;
	many->pages = 1;
	if (!map_many(many, (vmas + 1) * psize()) || !split_into_pages(many->map, vmas))
		return false;
	many->map += vmas * psize();
	fill_many(many);
	return !ksm_mergeable(many->map, 1);
}

static bool make_other_vmas(struct many *many)
{
	return map_other_vmas(many, nr_vmas() - 2 * OTHER_VMAS);
}

/* VMAs that take part, without any page or page table but the first's. */
static bool make_empty_vmas(struct many *many)
{
	size_t vmas = nr_vmas() - 2 * OTHER_VMAS;

	many->parts = vmas;
	many->pages = 1;
	if (!map_many(many, vmas * psize()))
		return false;
	fill_many(many);
	return !ksm_mergeable(many->map, vmas) && split_into_pages(many->map, vmas);
}

/* One page, and one page table for it, in each part of a tree of page tables. */
static bool make_holes(struct many *many)
{
	size_t entries = psize() / sizeof(uint64_t), table = entries * psize();

	many->pages = 64;
	many->stride = entries * table;
	many->parts = many->pages * (entries - 1);
	if (!map_many(many, many->pages * many->stride))
		return false;
	fill_many(many);
	return !ksm_mergeable(many->map, many->pages * many->stride / psize());
}

/* One page in each page table. */
static bool make_sparse_tables(struct many *many)
{
	many->pages = 4096;
	many->stride = psize() / sizeof(uint64_t) * psize();
	many->parts = many->pages;
	if (!map_many(many, many->pages * many->stride))
		return false;
	fill_many(many);
	return !ksm_mergeable(many->map, many->pages * many->stride / psize());
}

/* Nothing but pages. */
static bool make_pages(struct many *many)
{
	many->pages = 4 * BATCH_PASSED_OVER;
	many->stride = psize();
	many->parts = many->pages;
	if (!map_many(many, many->pages * many->stride))
		return false;
	fill_many(many);
	return !ksm_mergeable(many->map, many->pages);
}

/* ---- holds of the lock, as the kernel's tracer sees them ---- */

struct holds {
	size_t nr;
	unsigned long longest;	/* microseconds */
};

FIXTURE(lock)
{
	struct ksm_test ksm;
	bool mounted;
	char dir[64];		/* of a trace instance, or empty */
	char text[16 << 20];	/* what was traced */
	long max_map_count;
	struct many many;
};

FIXTURE_VARIANT(lock)
{
	bool (*make)(struct many *many);
	const char *smart_scan;
	size_t at_once;		/* parts that one hold goes over, at most */
};

#define ADDRESS_SPACE(name, how, smart, most)				\
	FIXTURE_VARIANT_ADD(lock, name) {				\
		.make = how, .smart_scan = smart, .at_once = most,	\
	}

ADDRESS_SPACE(tiny_vmas, make_tiny_vmas, "1", MOST_AT_ONCE);
ADDRESS_SPACE(other_vmas, make_other_vmas, "1", MOST_AT_ONCE);
ADDRESS_SPACE(empty_vmas, make_empty_vmas, "1", MOST_AT_ONCE);
ADDRESS_SPACE(holes, make_holes, "1", MOST_AT_ONCE);
ADDRESS_SPACE(sparse_tables, make_sparse_tables, "1", MOST_AT_ONCE);
ADDRESS_SPACE(pages_passed_over, make_pages, "1", BATCH_PASSED_OVER);
ADDRESS_SPACE(pages_hashed, make_pages, "0", BATCH_HASHED);

static const char *mount_tracefs(bool *mounted)
{
	/* sys/mount.h cannot be had together with vm_util.h. */
	if (access(TRACEFS "/events", F_OK))
		*mounted = !syscall(__NR_mount, "tracefs", TRACEFS, "tracefs", 0, NULL);
	return access(TRACEFS "/" EVENTS "released", F_OK) ?
	       "this kernel does not trace mmap_lock (CONFIG_TRACING)" : NULL;
}

/* Writes a file of the trace instance; "" empties it. */
static int set_trace(FIXTURE_DATA(lock) *self, const char *name, const char *text)
{
	char path[160];

	snprintf(path, sizeof(path), "%s/%s", self->dir, name);
	return ksm_write_text(path, text);
}

static bool prepare_trace(FIXTURE_DATA(lock) *self)
{
	char filter[64];

	snprintf(self->dir, sizeof(self->dir), TRACEFS "/instances/ksm_hold_%d", getpid());
	if (mkdir(self->dir, 0700)) {
		self->dir[0] = '\0';
		return false;
	}
	snprintf(filter, sizeof(filter), "common_pid == %d", ksm_ksmd());
	return !set_trace(self, "trace_clock", "mono") &&
	       !set_trace(self, "buffer_size_kb", "4096") &&
	       !set_trace(self, EVENTS "acquire_returned/filter", filter) &&
	       !set_trace(self, EVENTS "released/filter", filter) &&
	       !set_trace(self, EVENTS "acquire_returned/enable", "1") &&
	       !set_trace(self, EVENTS "released/enable", "1");
}

static bool read_trace(FIXTURE_DATA(lock) *self)
{
	size_t size = 0;
	ssize_t got = 1;
	char path[160];
	int fd;

	snprintf(path, sizeof(path), "%s/trace", self->dir);
	fd = open(path, O_RDONLY);
	while (fd >= 0 && got > 0 && size < sizeof(self->text) - 1) {
		got = read(fd, self->text + size, sizeof(self->text) - 1 - size);
		size += got > 0 ? got : 0;
	}
	self->text[size] = '\0';
	if (fd >= 0)
		close(fd);
	return !got && size;
}

/* A line: "ksmd-9 [000] ..... 12.345678: mmap_lock_released: mm=..." */
static unsigned long line_microsecs(const char *line, const char *event)
{
	unsigned long secs, microsecs;
	const char *at = event;

	while (at > line && at[-1] != ' ')
		at--;
	if (at == line)
		return 0;
	for (at--; at > line && at[-1] != ' ';)
		at--;
	return sscanf(at, "%lu.%lu", &secs, &microsecs) == 2 ? secs * 1000000 + microsecs : 0;
}

static void count_holds(FIXTURE_DATA(lock) *self, struct holds *holds)
{
	unsigned long since = 0;
	char *line, *event, *rest;

	*holds = (struct holds){};
	for (line = strtok_r(self->text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		unsigned long now;

		event = strstr(line, "mmap_lock_");
		now = event ? line_microsecs(line, event) : 0;
		if (!now)
			continue;
		if (!strncmp(event, "mmap_lock_acquire", strlen("mmap_lock_acquire"))) {
			since = now;
			continue;
		}
		if (!since)
			continue;
		holds->nr++;
		if (now - since > holds->longest)
			holds->longest = now - since;
		since = 0;
	}
}

FIXTURE_SETUP(lock)
{
	const char *missing = ksm_missing() ?: mount_tracefs(&self->mounted);
	char text[32];

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ksm_set("smart_scan", variant->smart_scan);
	ASSERT_TRUE(prepare_trace(self));
	ASSERT_EQ(0, ksm_read_text(MAX_MAP_COUNT, text, sizeof(text)));
	self->max_map_count = strtol(text, NULL, 10);
	ASSERT_EQ(0, write_number(MAX_MAP_COUNT, nr_vmas()));
	ASSERT_TRUE(variant->make(&self->many));
}

FIXTURE_TEARDOWN_PARENT(lock)
{
	if (self->dir[0]) {
		set_trace(self, EVENTS "acquire_returned/enable", "0");
		set_trace(self, EVENTS "released/enable", "0");
		EXPECT_EQ(0, rmdir(self->dir));
	}
	if (self->mounted)
		EXPECT_EQ(0, syscall(__NR_umount2, TRACEFS, 0));
	if (self->max_map_count)
		EXPECT_EQ(0, write_number(MAX_MAP_COUNT, self->max_map_count));
	EXPECT_TRUE(ksm_end(&self->ksm));
}

static long count(const char *work)
{
	return ksm_number_in(COUNTS, work);
}

/* Each page is hashed once in a pass at most, but for some that look like others. */
TEST_F(lock, is_held_for_a_few_parts_at_a_time)
{
	const long most = self->many.pages + self->many.pages / 32 + 2;
	unsigned long longest = 0, undisturbed = ULONG_MAX;
	struct holds holds;

	for (unsigned int pass = 0; pass < 6; pass++) {
		long hashed = count("pages_hashed"), compared = count("pages_compared");

		ASSERT_LE(0, hashed);
		ASSERT_LE(0, compared);
		ASSERT_EQ(0, set_trace(self, "trace", ""));
		ASSERT_TRUE(ksm_one_pass());
		ASSERT_TRUE(read_trace(self));
		count_holds(self, &holds);
		if (holds.longest < undisturbed)
			undisturbed = holds.longest;
		if (holds.longest > longest)
			longest = holds.longest;
		EXPECT_GE(holds.nr, self->many.parts / variant->at_once);
		EXPECT_LE(count("pages_hashed") - hashed, most);
		EXPECT_EQ(0, count("pages_compared") - compared);
	}
	/* A hold is longer when others get the CPU meanwhile. */
	TH_LOG("%zu parts, %zu holds; longest %lu us, %lu us in the pass disturbed least",
	       self->many.parts, holds.nr, longest, undisturbed);
	EXPECT_TRUE(many_are_right(&self->many));
	EXPECT_TRUE(ksm_check());
}

/* ---- who waits ---- */

#define BIG	4096	/* pages; to hash them all takes long */

FIXTURE(wait)
{
	struct ksm_test ksm;
	cpu_set_t cpus;		/* ksmd's */
	/* Of a child when it exits; the fixture is shared with it. */
	long scanned;
	uint64_t start;		/* nanoseconds */
};

/* What ksmd did during one call, and how long that took. */
struct waited {
	long pages;
	long microsecs;
};

/*
 * With a CPU of its own ksmd would go on beside whoever unmaps, without holding anybody
 * up. On one CPU it gets on while others wait for it, or when their time is up.
 */
static bool share_cpu(void)
{
	cpu_set_t cpu;

	CPU_ZERO(&cpu);
	CPU_SET(sched_getcpu(), &cpu);
	return !sched_setaffinity(0, sizeof(cpu), &cpu) &&
	       !sched_setaffinity(ksm_ksmd(), sizeof(cpu), &cpu);
}

FIXTURE_SETUP(wait)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	/* With smart_scan off each page is hashed in each pass, and a turn is a pass. */
	ASSERT_EQ(0, ksm_set_number("pages_to_scan", UINT_MAX));
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 0));
	ASSERT_EQ(0, sched_getaffinity(ksm_ksmd(), sizeof(self->cpus), &self->cpus));
	ASSERT_TRUE(share_cpu());
}

FIXTURE_TEARDOWN_PARENT(wait)
{
	if (CPU_COUNT(&self->cpus))
		EXPECT_EQ(0, sched_setaffinity(ksm_ksmd(), sizeof(self->cpus), &self->cpus));
	EXPECT_TRUE(ksm_end(&self->ksm));
}

/* @since: when it had not, as far as was seen */
static bool pass_has_ended(long scans, uint64_t *since)
{
	uint64_t now = ksm_tick_millisecs();

	if (ksm_get("full_scans") > scans)
		return true;
	*since = now;
	return false;
}

/* VMAs that take no part count as an eighth of a page, or somebody could keep ksmd busy. */
TEST_F(wait, between_turns_comes_soon_where_nothing_but_vmas_is_seen)
{
	const size_t vmas = 20000, turns = vmas / 8 / 100;
	const unsigned int millisecs = 20;
	uint64_t start = ksm_tick_millisecs();
	struct many many;
	long scans;

	ASSERT_TRUE(map_other_vmas(&many, vmas));
	ASSERT_EQ(0, ksm_set_number("pages_to_scan", 100));
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", millisecs));
	scans = ksm_get("full_scans");
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_until(pass_has_ended(scans, &start)));
	ASSERT_TRUE(ksm_wait_until(ksm_get("full_scans") > scans + 1));
	EXPECT_GE(ksm_tick_millisecs() - start, turns * millisecs / 2);
	EXPECT_TRUE(many_are_right(&many));
}

static uint64_t now_nanosecs(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static int compare_longs(const void *a, const void *b)
{
	long x = *(const long *)a, y = *(const long *)b;

	return x < y ? -1 : x > y;
}

/* Of most: whoever was not scheduled for a while between two looks tells nothing. */
static struct waited most_waited(const struct waited *waited, struct waited *longest)
{
	long pages[TRIES], microsecs[TRIES];

	for (size_t i = 0; i < TRIES; i++) {
		pages[i] = waited[i].pages;
		microsecs[i] = waited[i].microsecs;
	}
	qsort(pages, TRIES, sizeof(pages[0]), compare_longs);
	qsort(microsecs, TRIES, sizeof(microsecs[0]), compare_longs);
	*longest = (struct waited){ pages[TRIES - 1], microsecs[TRIES - 1] };
	return (struct waited){ pages[TRIES * 3 / 4], microsecs[TRIES * 3 / 4] };
}

static void check_waits(struct __test_metadata *_metadata, const char *what,
			const struct waited *off, const struct waited *on)
{
	struct waited longest_off, longest_on;
	struct waited most_off = most_waited(off, &longest_off);
	struct waited most_on = most_waited(on, &longest_on);

	TH_LOG("%s: 3 of 4 within %ld us, longest %ld us; without ksmd %ld us, %ld us", what,
	       most_on.microsecs, longest_on.microsecs, most_off.microsecs,
	       longest_off.microsecs);
	TH_LOG("ksmd went on by %ld pages at most in 3 of 4, %ld in all", most_on.pages,
	       longest_on.pages);
	EXPECT_EQ(0, longest_off.pages);
	EXPECT_LE(most_on.pages, FEW_PAGES);
}

static char *map_big(void)
{
	char *map = ksm_map_pages(BIG);

	if (!map)
		return NULL;
	madvise(map, BIG * psize(), MADV_NOHUGEPAGE);
	ksm_fill(map, BIG, SEED, 1);
	return ksm_mergeable(map, BIG) ? NULL : map;
}

/* Page by page, from the end. */
static bool unmap_some(char *map, size_t pages, struct waited *waited)
{
	for (size_t i = 0; i < TRIES; i++) {
		long scanned = ksm_get("pages_scanned");
		uint64_t start;

		/* In the middle of a pass. */
		if (ksm_get("run") == 1 &&
		    !ksm_wait_until(ksm_get("pages_scanned") > scanned + FEW_PAGES))
			return false;
		scanned = ksm_get("pages_scanned");
		start = now_nanosecs();
		if (munmap(map + (pages - 1 - i) * psize(), psize()))
			return false;
		waited[i].microsecs = (now_nanosecs() - start) / 1000;
		waited[i].pages = ksm_get("pages_scanned") - scanned;
	}
	return true;
}

TEST_F(wait, of_munmap_is_for_one_batch)
{
	struct waited off[TRIES], on[TRIES];
	char *map = map_big();

	ASSERT_NE(NULL, map);
	ASSERT_TRUE(unmap_some(map, BIG, off));
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(unmap_some(map, BIG - TRIES, on));
	check_waits(_metadata, "munmap", off, on);
	EXPECT_EQ(-1, ksm_first_wrong(map, BIG - 2 * TRIES, SEED, 1));
}

/* Exits when ksmd is at work on its memory; how long that took, its parent sees. */
static bool exit_once(FIXTURE_DATA(wait) *self, struct waited *waited)
{
	long scanned = ksm_get("pages_scanned");
	bool scans = ksm_get("run") == 1;
	int status;
	pid_t pid;

	pid = fork();
	if (!pid) {
		if (!map_big() ||
		    (scans && !ksm_wait_until(ksm_get("pages_scanned") > scanned + BIG)))
			_exit(1);
		self->scanned = ksm_get("pages_scanned");
		self->start = now_nanosecs();
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		return false;
	waited->microsecs = (now_nanosecs() - self->start) / 1000;
	waited->pages = ksm_get("pages_scanned") - self->scanned;
	return true;
}

static bool exit_often(FIXTURE_DATA(wait) *self, struct waited *waited)
{
	for (size_t i = 0; i < TRIES; i++)
		if (!exit_once(self, &waited[i]))
			return false;
	return true;
}

TEST_F(wait, of_exit_is_for_one_batch)
{
	struct waited off[TRIES], on[TRIES];

	ASSERT_TRUE(exit_often(self, off));
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(exit_often(self, on));
	check_waits(_metadata, "exit", off, on);
}

TEST_HARNESS_MAIN
