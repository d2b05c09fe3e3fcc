// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random arguments for madvise() and prctl(), in a process whose memory, all of it, is
 * scanned meanwhile. A model of the address space tells what each call returns and
 * what takes part afterwards. See ksm_fuzz.h for long runs.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include "ksm_fuzz.h"
#include "ksm_util.h"
#include "vm_util.h"

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif

#define ARENA		96	/* pages; kinds of memory and holes side by side */
#define MAX_RUN		6	/* pages of one kind */
#define SEED		1000
#define CONTENTS	5	/* so that most pages have a twin */

#define MAX_SEGMENTS	4096
#define MAX_SMAPS	(4 << 20)
#define STACK		(256 << 10)

/* Rounds from one time to the next. */
#define COMPARE_ROUNDS	16
#define SETTLE_ROUNDS	512
#define CHECK_ROUNDS	2048

/* A piece of the address space in which all pages are alike. */
struct segment {
	uintptr_t start, end;
	bool compatible;
	bool mergeable;
};

/* Filled first and not freed: no call but those under test changes the address space. */
struct space {
	struct segment segment[MAX_SEGMENTS];
	size_t nr;
	bool merge_any;
	char smaps[MAX_SMAPS];
};

struct call {
	uintptr_t addr;
	size_t size;
	unsigned long advice;
};

FIXTURE(calls)
{
	struct ksm_test ksm;
	struct fuzz fuzz;
	struct space *space;
	char *arena;
	uint64_t content[ARENA];	/* of pages that can be read and written, or 0 */
	unsigned long good, gaps, refused, merged;
};

static uintptr_t page_down(uintptr_t addr)
{
	return addr - addr % psize();
}

/* ---- the memory ---- */

static int open_memfd(void)
{
	int fd = memfd_create("ksm_fuzz", 0);

	if (fd >= 0 && ftruncate(fd, MAX_RUN * psize())) {
		close(fd);
		return -1;
	}
	return fd;
}

static bool map_over(char *map, size_t size, int prot, int flags, int fd)
{
	char *done = mmap(map, size, prot, flags | MAP_FIXED, fd, 0);

	if (fd >= 0)
		close(fd);
	return done == map;
}

/* Maps some pages of a kind; whether they can be written to. */
static bool map_kind(struct fuzz *fuzz, char *map, size_t size)
{
	const int rw = PROT_READ | PROT_WRITE, anon = MAP_ANONYMOUS;

	switch (fuzz_below(fuzz, 12)) {
	case 0:
		munmap(map, size);
		return false;
	case 1:
		map_over(map, size, PROT_READ, MAP_PRIVATE | anon, -1);
		return false;
	case 2:
		return map_over(map, size, rw, MAP_SHARED | anon, -1);
	case 3:
		return map_over(map, size, rw, MAP_PRIVATE, open_memfd());
	case 4:
		return map_over(map, size, rw, MAP_SHARED, open_memfd());
	case 5:
		/* What it holds may be lost, and not all kernels have it. */
		map_over(map, size, rw, MAP_DROPPABLE | anon, -1);
		return false;
	case 6:
		return map_over(map, size, rw, MAP_PRIVATE | anon | MAP_LOCKED, -1);
	case 7:
		return false;	/* nobody may access it */
	case 8:
		map_over(map, size, PROT_READ, MAP_PRIVATE, open("/dev/mem", O_RDONLY));
		return false;
	default:
		return map_over(map, size, rw, MAP_PRIVATE | anon, -1);
	}
}

static bool map_arena(FIXTURE_DATA(calls) *self)
{
	struct fuzz *fuzz = &self->fuzz;

	self->arena = mmap(NULL, ARENA * psize(), PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (self->arena == MAP_FAILED)
		return false;
	for (size_t at = 0, run; at < ARENA; at += run) {
		char *map = self->arena + at * psize();

		run = 1 + fuzz_below(fuzz, MAX_RUN);
		if (run > ARENA - at)
			run = ARENA - at;
		if (!map_kind(fuzz, map, run * psize()))
			continue;
		for (size_t i = 0; i < run; i++) {
			self->content[at + i] = SEED + fuzz_below(fuzz, CONTENTS);
			ksm_fill(map + i * psize(), 1, self->content[at + i], 0);
		}
	}
	return true;
}

static bool contents_are_right(FIXTURE_DATA(calls) *self)
{
	for (size_t i = 0; i < ARENA; i++) {
		if (self->content[i] &&
		    ksm_first_wrong(self->arena + i * psize(), 1, self->content[i], 0) != -1) {
			fprintf(stderr, "# page %zu of the arena is wrong\n", i);
			return false;
		}
	}
	return true;
}

static void rewrite_some(FIXTURE_DATA(calls) *self)
{
	size_t page = fuzz_below(&self->fuzz, ARENA);

	if (!self->content[page])
		return;
	self->content[page] = SEED + fuzz_below(&self->fuzz, CONTENTS);
	ksm_fill(self->arena + page * psize(), 1, self->content[page], 0);
}

/* It does not grow any more. */
static void touch_stack(void)
{
	char stack[STACK];

	explicit_bzero(stack, sizeof(stack));
}

/* ---- the model ---- */

/* Makes @addr the border of two segments, if it is in one. */
static bool split_at(struct space *space, uintptr_t addr)
{
	size_t i;

	for (i = 0; i < space->nr; i++)
		if (space->segment[i].start < addr && addr < space->segment[i].end)
			break;
	if (i == space->nr)
		return true;
	if (space->nr == MAX_SEGMENTS)
		return false;
	memmove(&space->segment[i + 1], &space->segment[i],
		(space->nr - i) * sizeof(space->segment[0]));
	space->nr++;
	space->segment[i].end = addr;
	space->segment[i + 1].start = addr;
	return true;
}

static void join_segments(struct space *space)
{
	struct segment *last = &space->segment[0];

	for (size_t i = 1; i < space->nr; i++) {
		struct segment *next = &space->segment[i];

		if (last->end == next->start && last->compatible == next->compatible &&
		    last->mergeable == next->mergeable)
			last->end = next->end;
		else
			*++last = *next;
	}
	space->nr = last - space->segment + 1;
}

static void advise_segments(struct space *space, uintptr_t start, uintptr_t end, bool on)
{
	split_at(space, start);
	split_at(space, end);
	for (size_t i = 0; i < space->nr; i++) {
		struct segment *segment = &space->segment[i];

		if (segment->start >= start && segment->end <= end)
			segment->mergeable = on && segment->compatible;
	}
	join_segments(space);
}

static bool has_gap(const struct space *space, uintptr_t start, uintptr_t end)
{
	for (size_t i = 0; i < space->nr && start < end; i++) {
		if (space->segment[i].start <= start && start < space->segment[i].end)
			start = space->segment[i].end;
	}
	return start < end;
}

/* What a call to madvise() must return; what it changes is noted. */
static int expect_madvise(struct space *space, const struct call *call)
{
	size_t size = page_down(call->size + psize() - 1);
	uintptr_t end = call->addr + size;
	int advice = call->advice;

	if (advice != MADV_MERGEABLE && advice != MADV_UNMERGEABLE)
		return -EINVAL;
	if (call->addr % psize() || (call->size && !size) || end < call->addr)
		return -EINVAL;
	advise_segments(space, call->addr, end, advice == MADV_MERGEABLE);
	return has_gap(space, call->addr, end) ? -ENOMEM : 0;
}

static int expect_prctl(struct space *space, int option, const unsigned long *arg)
{
	if (arg[1] || arg[2] || arg[3] || (option == PR_GET_MEMORY_MERGE && arg[0]))
		return -EINVAL;
	if (option == PR_GET_MEMORY_MERGE)
		return space->merge_any;
	if (space->merge_any == !!arg[0])
		return 0;
	space->merge_any = arg[0];
	advise_segments(space, 0, UINTPTR_MAX, arg[0]);
	return 0;
}

/* ---- the model and what is ---- */

static bool read_smaps(struct space *space)
{
	int fd = open("/proc/self/smaps", O_RDONLY);
	size_t size = 0;
	ssize_t got = 1;

	while (fd >= 0 && got > 0 && size < MAX_SMAPS - 1) {
		got = read(fd, space->smaps + size, MAX_SMAPS - 1 - size);
		size += got > 0 ? got : 0;
	}
	space->smaps[size] = '\0';
	if (fd >= 0)
		close(fd);
	return !got && size;
}

static bool has_any_flag(const char *flags, const char *wanted)
{
	for (; *flags && *flags != '\n'; flags += 3)
		for (const char *flag = wanted; *flag; flag += 2)
			if (flags[0] == flag[0] && flags[1] == flag[1])
				return true;
	return false;
}

/* The next mapping; returns where to go on, or NULL. The last may be the kernel's own. */
static const char *next_mapping(const char *at, struct segment *segment)
{
	const char *flags = at ? strstr(at, "VmFlags: ") : NULL;
	char *rest;

	if (!flags)
		return NULL;
	segment->start = strtoul(at, &rest, 16);
	segment->end = strtoul(rest + 1, NULL, 16);
	flags += strlen("VmFlags: ");
	segment->compatible = !has_any_flag(flags, "shmshtiopfmmdedp");
	segment->mergeable = has_any_flag(flags, "mg");
	at = strchr(flags, '\n');
	return (intptr_t)segment->start < 0 || !at ? NULL : at + 1;
}

static bool learn_space(struct space *space)
{
	const char *at = space->smaps;

	if (!read_smaps(space))
		return false;
	for (space->nr = 0; space->nr < MAX_SEGMENTS; space->nr++) {
		at = next_mapping(at, &space->segment[space->nr]);
		if (!at)
			break;
	}
	join_segments(space);
	return space->nr > 1;
}

/* Whether just that takes part which the model says. */
static bool space_is_right(struct space *space)
{
	struct segment seen;
	const char *at = space->smaps;

	if (!read_smaps(space))
		return false;
	while ((at = next_mapping(at, &seen))) {
		for (size_t i = 0; i < space->nr; i++) {
			struct segment *known = &space->segment[i];

			if (known->end <= seen.start || seen.end <= known->start ||
			    known->mergeable == seen.mergeable)
				continue;
			fprintf(stderr, "# %lx-%lx is %smergeable, %lx-%lx should %sbe\n",
				seen.start, seen.end, seen.mergeable ? "" : "not ", known->start,
				known->end, known->mergeable ? "" : "not ");
			return false;
		}
	}
	return prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == space->merge_any &&
	       ksm_proc_says(getpid(), space->merge_any ? "ksm_merge_any: yes" :
							  "ksm_merge_any: no");
}

/* ---- calls ---- */

/* Somewhere in the arena, at the border of something else, or anywhere. */
static uintptr_t some_addr(FIXTURE_DATA(calls) *self)
{
	struct fuzz *fuzz = &self->fuzz;
	struct segment *segment = &self->space->segment[fuzz_below(fuzz, self->space->nr)];

	switch (fuzz_below(fuzz, 16)) {
	case 0:
		return segment->start + (fuzz_below(fuzz, 5) - 2) * psize();
	case 1:
		return segment->end;
	case 2:
		return segment->start +
		       fuzz_below(fuzz, (segment->end - segment->start) / psize()) * psize();
	case 3:
		return getauxval(AT_SYSINFO_EHDR);
	case 4:
		return page_down(fuzz_number(fuzz));
	case 5:
		return fuzz_number(fuzz);
	default:
		return (uintptr_t)self->arena + fuzz_below(fuzz, ARENA + 1) * psize();
	}
}

static size_t some_size(FIXTURE_DATA(calls) *self, uintptr_t addr)
{
	struct fuzz *fuzz = &self->fuzz;

	switch (fuzz_below(fuzz, 8)) {
	case 0:
		return some_addr(self) - addr;
	case 1:
		return fuzz_number(fuzz);
	case 2:
		return -fuzz_below(fuzz, 3 * psize());
	case 3:
		return fuzz_below(fuzz, 4 * psize());
	default:
		return fuzz_below(fuzz, 2 * MAX_RUN) * psize();
	}
}

/* Others may do harm; for an int only the low half counts. */
static unsigned long some_advice(struct fuzz *fuzz)
{
	static const unsigned long unknown[] = {
		5, 6, 7, 26, 99, 104, 1000, 0x100c, INT_MAX, UINT_MAX, -12UL, 12UL << 8, 12UL << 24,
	};
	unsigned long advice = fuzz_chance(fuzz, 2) ? MADV_MERGEABLE : MADV_UNMERGEABLE;

	if (fuzz_chance(fuzz, 16))
		return unknown[fuzz_below(fuzz, ARRAY_SIZE(unknown))];
	if (fuzz_chance(fuzz, 16))
		advice |= fuzz_next(fuzz) << 32;
	return advice;
}

static bool try_madvise(FIXTURE_DATA(calls) *self)
{
	struct call call = { .addr = some_addr(self) };
	int expected, error;

	if (fuzz_chance(&self->fuzz, 16))
		call.addr += fuzz_below(&self->fuzz, psize());
	call.size = some_size(self, call.addr);
	call.advice = some_advice(&self->fuzz);
	expected = expect_madvise(self->space, &call);
	error = syscall(SYS_madvise, call.addr, call.size, call.advice) ? -errno : 0;
	self->good += !error;
	self->gaps += error == -ENOMEM;
	self->refused += error == -EINVAL;
	if (error == expected)
		return true;
	fprintf(stderr, "# madvise(%#lx, %#zx, %#lx) gives %d, not %d\n", call.addr, call.size,
		call.advice, error, expected);
	return false;
}

static unsigned long some_argument(struct fuzz *fuzz, unsigned int zeros)
{
	return fuzz_chance(fuzz, zeros) ? fuzz_number(fuzz) : 0;
}

static bool try_prctl(FIXTURE_DATA(calls) *self)
{
	struct fuzz *fuzz = &self->fuzz;
	int option = fuzz_chance(fuzz, 4) ? PR_GET_MEMORY_MERGE : PR_SET_MEMORY_MERGE;
	unsigned long arg[4] = {
		some_argument(fuzz, 2), some_argument(fuzz, 8), some_argument(fuzz, 8),
		some_argument(fuzz, 8),
	};
	int expected = expect_prctl(self->space, option, arg), result;

	result = syscall(SYS_prctl, option, arg[0], arg[1], arg[2], arg[3]);
	if (result < 0)
		result = -errno;
	self->good += result >= 0;
	self->refused += result == -EINVAL;
	if (result == expected && prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == self->space->merge_any)
		return true;
	fprintf(stderr, "# prctl(%d, %#lx, %#lx, %#lx, %#lx) gives %d, not %d\n", option, arg[0],
		arg[1], arg[2], arg[3], result, expected);
	return false;
}

/* Lets ksmd go over the arena, as it is registered. */
static bool settle(FIXTURE_DATA(calls) *self)
{
	struct call call = { (uintptr_t)self->arena, ARENA * psize(), MADV_MERGEABLE };
	int expected = expect_madvise(self->space, &call);
	long scans = ksm_get("full_scans");

	if ((madvise(self->arena, call.size, MADV_MERGEABLE) ? -errno : 0) != expected)
		return false;
	if (!ksm_wait_until(ksm_get("full_scans") > scans + KSM_MERGE_PASSES))
		return false;
	self->merged += ksm_get("pages_sharing") > 0;
	return contents_are_right(self);
}

static bool one_round(FIXTURE_DATA(calls) *self)
{
	unsigned long round = self->fuzz.round;

	if (round % SETTLE_ROUNDS == 0 && !settle(self))
		return false;
	if (round % COMPARE_ROUNDS == 0) {
		if (!space_is_right(self->space))
			return false;
		rewrite_some(self);
	}
	if (round % CHECK_ROUNDS == 0 && !ksm_check())
		return false;
	return fuzz_chance(&self->fuzz, 8) ? try_prctl(self) : try_madvise(self);
}

FIXTURE_SETUP(calls)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	fuzz_begin(&self->fuzz);
	TH_LOG("KSM_FUZZ_SEED=%llu, %lu rounds", (unsigned long long)self->fuzz.seed,
	       self->fuzz.rounds);
	self->space = mmap(NULL, sizeof(*self->space), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->space);
	ASSERT_TRUE(map_arena(self));
	touch_stack();
	/* Whatever these need is there now. */
	ASSERT_TRUE(ksm_proc_says(getpid(), "ksm_merge_any: no"));
	ASSERT_TRUE(learn_space(self->space));
}

FIXTURE_TEARDOWN_PARENT(calls)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

TEST_F_TIMEOUT(calls, do_what_is_documented_and_nothing_else, FUZZ_TIMEOUT)
{
	struct fuzz *fuzz = &self->fuzz;
	uint64_t start = ksm_now_millisecs();

	ASSERT_EQ(0, ksm_set("run", "1"));
	for (fuzz->round = 0; fuzz->round < fuzz->rounds; fuzz->round++) {
		ASSERT_TRUE(one_round(self)) {
			TH_LOG("round %lu of KSM_FUZZ_SEED=%llu", fuzz->round,
			       (unsigned long long)fuzz->seed);
		}
	}
	ASSERT_TRUE(settle(self));
	ASSERT_TRUE(space_is_right(self->space));
	TH_LOG("%lu good, %lu with a gap, %lu refused; %llu ms", self->good, self->gaps,
	       self->refused, (unsigned long long)(ksm_now_millisecs() - start));
	/* It was all about something. */
	EXPECT_GT(self->good, fuzz->rounds / 16);
	EXPECT_GT(self->gaps, fuzz->rounds / 64);
	EXPECT_GT(self->refused, fuzz->rounds / 64);
	EXPECT_GT(self->merged, fuzz->rounds / SETTLE_ROUNDS);
	EXPECT_TRUE(ksm_check());
	ASSERT_EQ(0, ksm_set_merge_any(0));
}

TEST_HARNESS_MAIN
