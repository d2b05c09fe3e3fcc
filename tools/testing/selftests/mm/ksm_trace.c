// SPDX-License-Identifier: GPL-2.0-only
/*
 * The tracepoints of the group ksm: each is there with the fields that programs
 * know, and tells the truth when it should: passes by their number, processes by
 * their mm, pages by the frame that /proc/PID/pagemap shows.
 *
 * Events are read in a trace instance of the test's own, field by field, so that
 * neither another tracer nor the text of an event matters.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "ksm_util.h"
#include "vm_util.h"

#define TRACEFS		"/sys/kernel/tracing"
#define PAGES		8
#define SEED		1000
#define MAX_FIELDS	5

/* Why there can be no tracing here, or NULL. */
static const char *mount_tracefs(bool *mounted)
{
	if (!access(TRACEFS "/events", F_OK))
		return NULL;
	/* sys/mount.h cannot be had together with vm_util.h. */
	if (syscall(__NR_mount, "tracefs", TRACEFS, "tracefs", 0, NULL))
		return "this kernel has no tracefs (CONFIG_TRACING)";
	*mounted = true;
	return access(TRACEFS "/events", F_OK) ?
	       "this kernel has no trace events (CONFIG_EVENT_TRACING)" : NULL;
}

/* Each event, and nothing of it but its description. */
FIXTURE(event)
{
	bool mounted;
};

FIXTURE_VARIANT(event)
{
	const char *name;
	const char *fields[MAX_FIELDS];
};

#define EVENT(event_name, ...)					\
	FIXTURE_VARIANT_ADD(event, event_name) {		\
		.name = #event_name,				\
		.fields = { __VA_ARGS__ },			\
	}

EVENT(ksm_start_scan, "seq", "rmap_entries");
EVENT(ksm_stop_scan, "seq", "rmap_entries");
EVENT(ksm_enter, "mm");
EVENT(ksm_exit, "mm");
EVENT(ksm_merge_one_page, "pfn", "rmap_item", "mm", "err");
EVENT(ksm_merge_with_ksm_page, "ksm_page", "pfn", "rmap_item", "mm", "err");
EVENT(ksm_remove_ksm_page, "pfn");
EVENT(ksm_remove_rmap_item, "pfn", "rmap_item", "mm");
EVENT(ksm_advisor, "scan_time", "pages_to_scan", "cpu_percent");

FIXTURE_SETUP(event)
{
	const char *missing = ksm_missing();

	if (!missing)
		missing = mount_tracefs(&self->mounted);
	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN_PARENT(event)
{
	if (self->mounted)
		EXPECT_EQ(0, syscall(__NR_umount2, TRACEFS, 0));
}

TEST_F(event, has_the_fields_that_programs_know)
{
	char path[128], text[4096], wanted[64], *at;
	unsigned int fields = 0, known = 0;

	snprintf(path, sizeof(path), TRACEFS "/events/ksm/%s/format", variant->name);
	ASSERT_EQ(0, ksm_read_text(path, text, sizeof(text)));
	snprintf(wanted, sizeof(wanted), "name: %s\n", variant->name);
	EXPECT_EQ(0, strncmp(text, wanted, strlen(wanted)));
	/* In this order and no others; a field reads "field:TYPE NAME;\toffset:...". */
	for (at = strstr(text, "\tfield:"); at; at = strstr(at + 1, "\tfield:"))
		fields += !strstr(strndupa(at, strcspn(at, ";")), " common_");
	for (at = text; known < MAX_FIELDS && variant->fields[known]; known++) {
		snprintf(wanted, sizeof(wanted), " %s;\toffset:", variant->fields[known]);
		at = strstr(at, wanted);
		ASSERT_NE(NULL, at) {
			TH_LOG("%s has no field %s", variant->name, variant->fields[known]);
		}
	}
	EXPECT_EQ(known, fields);
}

FIXTURE(tracing)
{
	struct ksm_test ksm;
	bool mounted;
	char dir[128];		/* of the instance, or empty */
	char log[1 << 20];	/* what was traced, cut into lines by next_event() */
	char *rest;
};

FIXTURE_SETUP(tracing)
{
	const char *missing = ksm_missing();
	char path[160];

	if (!missing)
		missing = mount_tracefs(&self->mounted);
	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	snprintf(path, sizeof(path), TRACEFS "/instances/ksm_trace_%d", getpid());
	ASSERT_EQ(0, mkdir(path, 0700));
	strcpy(self->dir, path);
	snprintf(path, sizeof(path), "%s/options/fields", self->dir);
	if (access(path, F_OK) && !rmdir(self->dir) && ksm_end(&self->ksm))
		SKIP(return, "this kernel cannot print events by fields (options/fields)");
	ASSERT_EQ(0, ksm_write_text(path, "1"));
}

FIXTURE_TEARDOWN_PARENT(tracing)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	if (self->dir[0])
		EXPECT_EQ(0, rmdir(self->dir));
	if (self->mounted)
		EXPECT_EQ(0, syscall(__NR_umount2, TRACEFS, 0));
}

static int trace(FIXTURE_DATA(tracing) *self, const char *event, bool on)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/events/ksm/%s/enable", self->dir, event);
	return ksm_write_text(path, on ? "1" : "0");
}

/* Takes what was traced so far; it is looked through by next_event(). */
static bool take_log(FIXTURE_DATA(tracing) *self)
{
	size_t size = 0;
	char path[256];
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "%s/trace", self->dir);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return false;
	do {
		got = read(fd, self->log + size, sizeof(self->log) - 1 - size);
		size += got > 0 ? got : 0;
	} while (got > 0);
	close(fd);
	self->log[size] = '\0';
	self->rest = self->log;
	return !got && size < sizeof(self->log) - 1;
}

/* The next line of an event, or of any if @event is NULL. */
static const char *next_event(FIXTURE_DATA(tracing) *self, const char *event)
{
	char wanted[64], *line;

	snprintf(wanted, sizeof(wanted), ": %s:", event ?: "ksm_");
	wanted[strlen(wanted) - !event] = '\0';
	while ((line = strsep(&self->rest, "\n"))) {
		if (line[0] != '#' && strstr(line, wanted))
			return line;
	}
	return NULL;
}

static bool is_event(const char *line, const char *event)
{
	char wanted[64];

	snprintf(wanted, sizeof(wanted), ": %s:", event);
	return strstr(line, wanted);
}

/* A field reads " NAME=... (NUMBER)"; KSM_NONE if there is no such field. */
static long field(const char *line, const char *name)
{
	char wanted[64];
	const char *at;

	snprintf(wanted, sizeof(wanted), " %s=", name);
	at = strstr(line, wanted);
	at = at ? strchr(at, '(') : NULL;
	return at ? strtol(at + 1, NULL, 10) : KSM_NONE;
}

/* How many events have a field of that value? */
static unsigned int count(FIXTURE_DATA(tracing) *self, const char *event, const char *name,
			  long value)
{
	unsigned int found = 0;
	const char *line;

	if (!take_log(self))
		return UINT_MAX;
	while ((line = next_event(self, event)))
		found += !name || field(line, name) == value;
	return found;
}

static char *page(char *map, size_t index)
{
	return map + index * psize();
}

TEST_F(tracing, scan_events_frame_each_pass)
{
	long seq = KSM_NONE, passes = 0;
	bool inside = false;
	const char *line;
	char *map;

	map = ksm_map_registered(PAGES);
	ASSERT_NE(NULL, map);
	ksm_fill(map, PAGES, SEED, 1);
	ASSERT_EQ(0, trace(self, "ksm_start_scan", true));
	ASSERT_EQ(0, trace(self, "ksm_stop_scan", true));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_TRUE(take_log(self));
	while ((line = next_event(self, NULL))) {
		/* Start and stop take turns, beginning with a start. */
		ASSERT_TRUE(is_event(line, inside ? "ksm_stop_scan" : "ksm_start_scan")) {
			TH_LOG("out of turn: %s", line);
		}
		if (seq != KSM_NONE)
			EXPECT_EQ(seq + !inside, field(line, "seq"));
		seq = field(line, "seq");
		passes += inside;
		/* From the third pass on all pages are known. */
		EXPECT_LE(field(line, "rmap_entries"), PAGES);
		if (passes >= 3)
			EXPECT_EQ(PAGES, field(line, "rmap_entries"));
		inside = !inside;
	}
	EXPECT_GE(passes, KSM_MERGE_PASSES);
	EXPECT_EQ(inside ? seq : seq + 1, ksm_get("full_scans"));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 1));
}

static long job_merge_any(struct ksm_worker *worker, long on, long unused, long unused2)
{
	return ksm_set_merge_any(on);
}

/* A process that is forked from a registered one, and ends. */
static long job_fork(struct ksm_worker *worker, long unused, long unused2, long unused3)
{
	pid_t pid = fork();
	int status;

	if (!pid)
		_exit(0);
	return pid > 0 && waitpid(pid, &status, 0) == pid ? 0 : -1;
}

TEST_F(tracing, ksm_enter_and_ksm_exit_tell_of_each_process_once)
{
	struct ksm_worker *worker = self->ksm.workers;
	long mm[3];

	for (unsigned int i = 0; i < 2; i++)
		ASSERT_TRUE(ksm_fork_worker(&self->ksm, i, NULL, PAGES));
	ASSERT_EQ(0, trace(self, "ksm_enter", true));
	ASSERT_EQ(0, trace(self, "ksm_exit", true));
	/* By madvise, twice; by prctl; by fork. */
	for (unsigned int i = 0; i < 2; i++)
		ASSERT_EQ(0, ksm_ask(&worker[0], ksm_job_advise, MADV_MERGEABLE, 0, 0));
	ASSERT_EQ(0, ksm_ask(&worker[1], job_merge_any, 1, 0, 0));
	ASSERT_EQ(0, ksm_ask(&worker[1], job_fork, 0, 0, 0));
	ASSERT_EQ(3, count(self, "ksm_enter", NULL, 0));
	ASSERT_TRUE(take_log(self));
	for (unsigned int i = 0; i < 3; i++)
		mm[i] = field(next_event(self, "ksm_enter"), "mm");
	EXPECT_EQ(1, count(self, "ksm_exit", NULL, 0));
	EXPECT_EQ(1, count(self, "ksm_exit", "mm", mm[2]));
	for (unsigned int i = 0; i < 2; i++) {
		EXPECT_NE(0, mm[i]);
		EXPECT_NE(mm[i], mm[!i]);
		EXPECT_EQ(0, mm[i] == mm[2] ? 0 : count(self, "ksm_exit", "mm", mm[i]));
		ASSERT_TRUE(ksm_end_worker(&worker[i]));
		EXPECT_TRUE(ksm_wait_until(count(self, "ksm_exit", "mm", mm[i]) >= 1));
	}
	EXPECT_EQ(3, count(self, "ksm_exit", NULL, 0));
}

/* Events of a page that was dealt with: of this frame, in this mm, with success. */
static unsigned int count_done(FIXTURE_DATA(tracing) *self, const char *event,
			       unsigned long pfn, long mm, bool joined)
{
	unsigned int found = 0;
	const char *line;

	if (!take_log(self))
		return UINT_MAX;
	while ((line = next_event(self, event)))
		found += field(line, "pfn") == (long)pfn && !field(line, "err") &&
			 field(line, "mm") == mm && field(line, "rmap_item") &&
			 (!joined || field(line, "ksm_page"));
	return found;
}

/* The mm as events name it, of a process that registers meanwhile; 0 if unknown. */
static long register_traced(FIXTURE_DATA(tracing) *self, char *map, size_t pages)
{
	const char *line;

	if (trace(self, "ksm_enter", true) || ksm_mergeable(map, pages) ||
	    trace(self, "ksm_enter", false) || !take_log(self))
		return 0;
	line = next_event(self, "ksm_enter");
	return line ? field(line, "mm") : 0;
}

TEST_F(tracing, merge_events_name_the_frames_that_go_and_the_one_that_stays)
{
	unsigned long before[PAGES], after;
	unsigned int stayed = 0;
	char *map;
	long mm;

	map = ksm_map_pages(PAGES);
	ASSERT_NE(NULL, map);
	ksm_fill(map, PAGES, SEED, 0);
	for (size_t i = 0; i < PAGES; i++)
		before[i] = ksm_pfn(getpid(), page(map, i));
	mm = register_traced(self, map, PAGES);
	ASSERT_NE(0, mm);
	ASSERT_EQ(0, trace(self, "ksm_merge_one_page", true));
	ASSERT_EQ(0, trace(self, "ksm_merge_with_ksm_page", true));
	ASSERT_TRUE(ksm_merge_all());
	after = ksm_pfn(getpid(), map);
	ASSERT_EQ(1, ksm_count_frames(getpid(), map, PAGES));
	for (size_t i = 0; i < PAGES; i++) {
		if (before[i] == after) {
			stayed++;
			EXPECT_LE(1, count_done(self, "ksm_merge_one_page", after, mm, false) +
				     count_done(self, "ksm_merge_with_ksm_page", after, mm, false));
			continue;
		}
		EXPECT_EQ(1, count_done(self, "ksm_merge_with_ksm_page", before[i], mm, true)) {
			TH_LOG("page %zu was at %lu, all are at %lu", i, before[i], after);
		}
	}
	EXPECT_EQ(1, stayed);
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 0));
}

TEST_F(tracing, merge_events_name_the_frames_of_empty_pages)
{
	unsigned long before[PAGES];
	char *map;
	long mm;

	if (ksm_set("use_zero_pages", "1") == -ENOENT)
		SKIP(return, "this kernel has no use_zero_pages");
	map = ksm_map_pages(PAGES);
	ASSERT_NE(NULL, map);
	memset(map, 0, PAGES * psize());
	for (size_t i = 0; i < PAGES; i++)
		before[i] = ksm_pfn(getpid(), page(map, i));
	mm = register_traced(self, map, PAGES);
	ASSERT_NE(0, mm);
	ASSERT_EQ(0, trace(self, "ksm_merge_one_page", true));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(PAGES, ksm_get("ksm_zero_pages"));
	for (size_t i = 0; i < PAGES; i++)
		EXPECT_EQ(1, count_done(self, "ksm_merge_one_page", before[i], mm, false));
	for (size_t i = 0; i < PAGES * psize(); i++)
		ASSERT_EQ(0, map[i]);
}

TEST_F(tracing, remove_events_tell_of_each_sharer_and_at_last_of_the_page)
{
	unsigned long frame;
	char *map;
	long mm;

	map = ksm_map_pages(PAGES);
	ASSERT_NE(NULL, map);
	ksm_fill(map, PAGES, SEED, 0);
	mm = register_traced(self, map, PAGES);
	ASSERT_NE(0, mm);
	ASSERT_TRUE(ksm_merge_all());
	frame = ksm_pfn(getpid(), map);
	ASSERT_EQ(PAGES, ksm_count_merged(getpid(), map, PAGES));
	ASSERT_EQ(0, trace(self, "ksm_remove_rmap_item", true));
	ASSERT_EQ(0, trace(self, "ksm_remove_ksm_page", true));

	/* One is written to, then half of them go, then the rest is unmerged. */
	ksm_fill(map, 1, SEED + 1, 0);
	ASSERT_TRUE(ksm_wait_passes(2));
	EXPECT_EQ(1, count(self, "ksm_remove_rmap_item", NULL, 0));
	ASSERT_EQ(0, munmap(page(map, PAGES / 2), PAGES / 2 * psize()));
	ASSERT_TRUE(ksm_wait_passes(2));
	EXPECT_EQ(1 + PAGES / 2, count(self, "ksm_remove_rmap_item", NULL, 0));
	EXPECT_EQ(0, count(self, "ksm_remove_ksm_page", NULL, 0));
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(PAGES, count(self, "ksm_remove_rmap_item", NULL, 0));
	EXPECT_EQ(PAGES, count(self, "ksm_remove_rmap_item", "pfn", frame));
	EXPECT_EQ(PAGES, count(self, "ksm_remove_rmap_item", "mm", mm));
	EXPECT_EQ(1, count(self, "ksm_remove_ksm_page", NULL, 0));
	EXPECT_EQ(1, count(self, "ksm_remove_ksm_page", "pfn", frame));
	EXPECT_EQ(-1, ksm_first_wrong(map, 1, SEED + 1, 0));
	EXPECT_EQ(-1, ksm_first_wrong(page(map, 1), PAGES / 2 - 1, SEED, 0));
}

TEST_F(tracing, ksm_advisor_tells_what_it_sets_after_each_pass)
{
	uint64_t start = ksm_now_millisecs();
	const char *line, *last = NULL;
	char *map;

	if (ksm_get("advisor_mode") == KSM_NONE)
		SKIP(return, "this kernel has no advisor_mode");
	map = ksm_map_registered(PAGES);
	ASSERT_NE(NULL, map);
	ksm_fill(map, PAGES, SEED, 1);
	ASSERT_EQ(0, trace(self, "ksm_advisor", true));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(0, ksm_set("run", "0"));
	EXPECT_EQ(0, count(self, "ksm_advisor", NULL, 0));

	ASSERT_EQ(0, ksm_set("advisor_mode", "scan-time"));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(0, ksm_set("run", "0"));
	EXPECT_LE(KSM_MERGE_PASSES, count(self, "ksm_advisor", NULL, 0));
	ASSERT_TRUE(take_log(self));
	while ((line = next_event(self, "ksm_advisor"))) {
		EXPECT_LE(0, field(line, "scan_time"));
		EXPECT_LE(field(line, "scan_time"), ksm_now_millisecs() - start);
		EXPECT_LE(0, field(line, "cpu_percent"));
		EXPECT_LE(field(line, "cpu_percent"), 100);
		last = line;
	}
	ASSERT_NE(NULL, last);
	EXPECT_EQ(ksm_get("pages_to_scan"), field(last, "pages_to_scan"));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 1));
}

TEST_HARNESS_MAIN
