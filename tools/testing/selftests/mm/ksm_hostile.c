// SPDX-License-Identifier: GPL-2.0-only
/*
 * Processes that mean no good: they register and unregister all the time, write to
 * pages just when work was done on them, and look for what is none of their business.
 * Others merge all the same, work stays bounded, and nothing is to be seen. For pages
 * built to have one checksum see ksm_crowd.c, for odd address spaces ksm_hold.c.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "ksm_util.h"
#include "vm_util.h"

#define KSM_DIR		"/sys/kernel/mm/ksm"
#define DEBUGFS		"/sys/kernel/debug"
#define TRACEFS		"/sys/kernel/tracing"
#define COUNTS		DEBUGFS "/ksm/work"

#define PAGES		256
#define SEED		1000
#define NOBODY		65534

/* Within so many passes equal pages merge, whatever others do. */
#define MOST_PASSES	(4 * KSM_MERGE_PASSES)

/* ---- registering in a loop ---- */

FIXTURE(loop)
{
	struct ksm_test ksm;
	char *map;	/* 2 * PAGES, the second half equal to the first */
};

FIXTURE_VARIANT(loop)
{
	ksm_job job;
	unsigned int workers;
};

/* Of each hostile process. */
static long *loop_rounds;

static void *map_shared_page(void)
{
	return mmap(NULL, psize(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

/* One page of its own, which is merged again and again. */
static long job_advise(struct ksm_worker *worker, long who, long unused, long unused2)
{
	ksm_fill(worker->map, worker->pages, SEED, 1);
	for (;; loop_rounds[who]++) {
		if (ksm_mergeable(worker->map, worker->pages) ||
		    ksm_unmergeable(worker->map, worker->pages))
			return -errno;
	}
}

static long job_set_merge_any(struct ksm_worker *worker, long who, long unused, long unused2)
{
	ksm_fill(worker->map, worker->pages, SEED, 1);
	for (;; loop_rounds[who]++) {
		if (ksm_set_merge_any(1) || ksm_set_merge_any(0))
			return -errno;
	}
}

/* New memory each time, at another place. */
static long job_map_and_unmap(struct ksm_worker *worker, long who, long unused, long unused2)
{
	for (;; loop_rounds[who]++) {
		size_t pages = 1 + loop_rounds[who] % 4;
		char *map = ksm_map_registered(pages);

		if (!map)
			return -errno;
		ksm_fill(map, 1, SEED + loop_rounds[who] % PAGES, 0);
		munmap(map, pages * psize());
	}
}

/* Each child is registered as its parent is. */
static long job_fork_and_exit(struct ksm_worker *worker, long who, long unused, long unused2)
{
	ksm_fill(worker->map, worker->pages, SEED, 1);
	if (ksm_mergeable(worker->map, worker->pages))
		return -errno;
	for (;; loop_rounds[who]++) {
		pid_t pid = fork();

		if (!pid)
			_exit(0);
		if (pid > 0)
			waitpid(pid, NULL, 0);
	}
}

#define LOOP(what) \
	FIXTURE_VARIANT_ADD(loop, what) { .job = job_##what, .workers = 3 }

LOOP(advise);
LOOP(set_merge_any);
LOOP(map_and_unmap);
LOOP(fork_and_exit);

FIXTURE_SETUP(loop)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	loop_rounds = map_shared_page();
	ASSERT_NE(MAP_FAILED, loop_rounds);
	for (unsigned int i = 0; i < variant->workers; i++) {
		ASSERT_TRUE(ksm_fork_worker(&self->ksm, i, NULL, 1 + 15 * i));
		ASSERT_EQ(0, ksm_send(&self->ksm.workers[i], variant->job, i, 0, 0));
	}
	self->map = ksm_map_registered(2 * PAGES);
	ASSERT_NE(NULL, self->map);
	ksm_fill(self->map, PAGES, SEED, 1);
	ksm_fill(self->map + PAGES * psize(), PAGES, SEED, 1);
}

FIXTURE_TEARDOWN_PARENT(loop)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

static bool twins_are_right(const char *map)
{
	return ksm_first_wrong(map, PAGES, SEED, 1) == -1 &&
	       ksm_first_wrong(map + PAGES * psize(), PAGES, SEED, 1) == -1;
}

static bool twins_are_merged(const char *map)
{
	return ksm_count_merged(getpid(), map, 2 * PAGES) == 2 * PAGES &&
	       ksm_count_frames(getpid(), map, 2 * PAGES) == PAGES;
}

/* Returns how many passes were waited for. */
static unsigned int wait_until_merged(const char *map)
{
	unsigned int passes = 0;

	while (passes < MOST_PASSES && !twins_are_merged(map)) {
		long first = ksm_get("full_scans");

		/* Not ksm_wait_passes(): the checker's sums move all the time. */
		if (!ksm_wait_until(ksm_get("full_scans") > first + 1))
			break;
		passes++;
	}
	return passes;
}

/* It may cost a page some more passes that a partner has just gone. */
TEST_F(loop, of_registering_does_not_keep_others_from_merging)
{
	long before[KSM_MAX_WORKERS];

	for (unsigned int i = 0; i < variant->workers; i++) {
		ASSERT_TRUE(ksm_wait_until(loop_rounds[i] > 0));
		before[i] = loop_rounds[i];
	}
	ASSERT_EQ(0, ksm_set("run", "1"));
	TH_LOG("merged within %u passes", wait_until_merged(self->map));
	EXPECT_TRUE(twins_are_merged(self->map));
	for (unsigned int i = 0; i < variant->workers; i++) {
		EXPECT_TRUE(ksm_wait_until(loop_rounds[i] > before[i]));
		TH_LOG("worker %u: %ld rounds", i, loop_rounds[i] - before[i]);
	}
	EXPECT_TRUE(twins_are_right(self->map));
}

/* ---- writing just in time ---- */

/* Waits until something is to be seen of what ksmd did; then it writes. */
FIXTURE(writer)
{
	struct ksm_test ksm;
	char *map;	/* 2 * PAGES, as above */
};

FIXTURE_VARIANT(writer)
{
	/* Whether the moment has come for the page at @page ... */
	bool (*is_time)(const char *page);
	/* ... or for all of them. */
	bool all;
};

static bool page_is_merged(const char *page)
{
	return ksm_count_merged(getpid(), page, 1);
}

static bool something_changed(const char *counter)
{
	static long seen;
	long now = ksm_get(counter), before = seen;

	seen = now;
	return now != before;
}

static bool sharing_changed(const char *page)
{
	return something_changed("pages_sharing");
}

static bool scanned_changed(const char *page)
{
	return something_changed("pages_scanned");
}

FIXTURE_VARIANT_ADD(writer, watches_its_pages)
{
	.is_time = page_is_merged,
};

FIXTURE_VARIANT_ADD(writer, watches_pages_sharing)
{
	.is_time = sharing_changed,
	.all = true,
};

FIXTURE_VARIANT_ADD(writer, watches_pages_scanned)
{
	.is_time = scanned_changed,
	.all = true,
};

static const FIXTURE_VARIANT(writer) *writer_variant;

/* What is written is what was there, so that it merges again. */
static bool write_again(char *map, size_t first, size_t pages)
{
	if (ksm_first_wrong(map + first * psize(), pages, SEED + first, 1) != -1)
		return false;
	ksm_fill(map + first * psize(), pages, SEED + first, 1);
	*loop_rounds += pages;
	return true;
}

static long job_write_in_time(struct ksm_worker *worker, long unused, long unused2, long unused3)
{
	size_t pages = writer_variant->all ? worker->pages : 1;

	if (ksm_mergeable(worker->map, worker->pages))
		return -errno;
	ksm_fill(worker->map, worker->pages, SEED, 1);
	for (size_t i = 0;; i = (i + pages) % worker->pages) {
		if (writer_variant->is_time(worker->map + i * psize()) &&
		    !write_again(worker->map, i, pages))
			return -EUCLEAN;
	}
}

FIXTURE_SETUP(writer)
{
	const char *missing = ksm_missing();

	if (!missing && access(COUNTS, R_OK))
		missing = "this kernel does not count KSM's work (CONFIG_DEBUG_FS, " COUNTS ")";
	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ksm_set("smart_scan", "1");
	loop_rounds = map_shared_page();
	ASSERT_NE(MAP_FAILED, loop_rounds);
	writer_variant = variant;
	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, NULL, PAGES));
	self->map = ksm_map_registered(2 * PAGES);
	ASSERT_NE(NULL, self->map);
	ksm_fill(self->map, PAGES, SEED, 1);
	ksm_fill(self->map + PAGES * psize(), PAGES, SEED, 1);
}

FIXTURE_TEARDOWN_PARENT(writer)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

/*
 * A pass hashes a page once when it is visited, once more when the sweep meets it, and a
 * candidate when it is made a merged page; what is equal is compared before and
 * after nobody can write to it any more.
 */
TEST_F(writer, in_time_costs_a_bounded_amount_of_work)
{
	const long total = 3 * PAGES, passes = 16;
	long hashed = ksm_number_in(COUNTS, "pages_hashed"), scans;
	long compared = ksm_number_in(COUNTS, "pages_compared");
	struct ksm_worker *writer = &self->ksm.workers[0];

	ASSERT_EQ(0, ksm_send(writer, job_write_in_time, 0, 0, 0));
	scans = ksm_get("full_scans");
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_until(ksm_get("full_scans") >= scans + passes));
	ASSERT_TRUE(ksm_wait_until(*loop_rounds > 4 * PAGES));
	ASSERT_EQ(0, ksm_set("run", "0"));
	scans = ksm_get("full_scans") - scans + 1;
	hashed = ksm_number_in(COUNTS, "pages_hashed") - hashed;
	compared = ksm_number_in(COUNTS, "pages_compared") - compared;
	TH_LOG("%ld passes, %ld pages written; hashed %ld, compared %ld", scans, *loop_rounds,
	       hashed, compared);
	EXPECT_LE(hashed, scans * 3 * total);
	EXPECT_LE(compared, scans * 2 * total);
	EXPECT_TRUE(twins_are_right(self->map));
	/* It is still at it, and found nothing wrong. */
	EXPECT_EQ(-1, sem_trywait(&writer->answered));
	EXPECT_TRUE(ksm_check());
}

/* ---- looking where one must not ---- */

FIXTURE(nobody)
{
	struct ksm_test ksm;
	pid_t other;		/* of root */
	bool debugfs, tracefs;	/* mounted by the test */
};

static bool mount_at(const char *type, const char *path)
{
	/* sys/mount.h cannot be had together with vm_util.h. */
	return !access(path, X_OK) && !syscall(__NR_mount, type, path, type, 0, NULL);
}

FIXTURE_SETUP(nobody)
{
	const char *missing = ksm_missing();
	struct ksm_worker *worker = &self->ksm.workers[0];

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->debugfs = access(COUNTS, F_OK) && mount_at("debugfs", DEBUGFS);
	self->tracefs = access(TRACEFS "/events", F_OK) && mount_at("tracefs", TRACEFS);
	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, NULL, PAGES));
	ASSERT_EQ(0, ksm_ask(worker, ksm_job_fill, SEED, 0, 0));
	ASSERT_EQ(0, ksm_ask(worker, ksm_job_advise, MADV_MERGEABLE, 0, 0));
	self->other = worker->pid;
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(0, setresgid(NOBODY, NOBODY, NOBODY));
	ASSERT_EQ(0, setresuid(NOBODY, NOBODY, NOBODY));
	/* What is its own it may see. */
	ASSERT_EQ(0, prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
}

FIXTURE_TEARDOWN_PARENT(nobody)
{
	if (self->tracefs)
		EXPECT_EQ(0, syscall(__NR_umount2, TRACEFS, 0));
	EXPECT_TRUE(ksm_end(&self->ksm));
	if (self->debugfs)
		EXPECT_EQ(0, syscall(__NR_umount2, DEBUGFS, 0));
}

static int try_to_open(const char *path, int flags)
{
	int fd = open(path, flags);

	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

TEST_F(nobody, may_read_sysfs_and_not_write_to_it)
{
	unsigned int nr = 0;
	struct dirent *entry;
	char path[512];
	DIR *dir;

	dir = opendir(KSM_DIR);
	ASSERT_NE(NULL, dir);
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), KSM_DIR "/%s", entry->d_name);
		nr++;
		EXPECT_EQ(0, try_to_open(path, O_RDONLY));
		EXPECT_EQ(-EACCES, try_to_open(path, O_WRONLY));
		EXPECT_EQ(-EACCES, try_to_open(path, O_RDWR));
		EXPECT_EQ(-1, chmod(path, 0666));
		EXPECT_EQ(-1, truncate(path, 0));
	}
	closedir(dir);
	EXPECT_GE(nr, 10);
	EXPECT_EQ(1, ksm_get("run"));
}

static unsigned int count_lines(const char *path, const char *word)
{
	unsigned int count = 0;
	char line[256];
	FILE *file;

	file = fopen(path, "r");
	while (file && fgets(line, sizeof(line), file))
		count += !!strstr(line, word);
	if (file)
		fclose(file);
	return count;
}

TEST_F(nobody, sees_no_figures_of_other_users_processes)
{
	static const char * const files[] = {
		"ksm_stat", "ksm_merging_pages", "smaps", "smaps_rollup", "pagemap", "mem",
	};
	char path[64], text[64];

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		snprintf(path, sizeof(path), "/proc/%d/%s", self->other, files[i]);
		EXPECT_EQ(-EACCES, ksm_read_text(path, text, sizeof(text))) {
			TH_LOG("%s", path);
		}
		snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", self->other, self->other,
			 files[i]);
		EXPECT_TRUE(ksm_read_text(path, text, sizeof(text)) < 0) {
			TH_LOG("%s", path);
		}
	}
	EXPECT_EQ(-EACCES, try_to_open("/proc/kpageflags", O_RDONLY));
	EXPECT_EQ(-EACCES, try_to_open("/proc/kpagecount", O_RDONLY));
	EXPECT_TRUE(try_to_open("/proc/slabinfo", O_RDONLY) < 0);
	/* As many as there have always been: cow_ksm, ksm_swpin_copy. */
	EXPECT_LE(count_lines("/proc/vmstat", "ksm"), 2);
	EXPECT_EQ(0, count_lines("/proc/meminfo", "ksm"));
}

TEST_F(nobody, sees_its_own_figures_and_no_frames)
{
	char *map = ksm_map_registered(PAGES);

	ASSERT_NE(NULL, map);
	ksm_fill(map, PAGES, SEED, 0);
	ASSERT_TRUE(ksm_wait_until(ksm_proc_stat(getpid(), "ksm_merging_pages") == PAGES));
	EXPECT_TRUE(ksm_proc_says(getpid(), "ksm_mergeable: yes"));
	EXPECT_EQ(0, ksm_count_present(getpid(), map, PAGES));
	/* One that may not be traced is none of its own user's business either. */
	ASSERT_EQ(0, prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
	EXPECT_EQ(-EACCES, try_to_open("/proc/self/ksm_stat", O_RDONLY));
	EXPECT_EQ(-EACCES, try_to_open("/proc/self/ksm_merging_pages", O_RDONLY));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 0));
}

static bool is_known(const char *path)
{
	return !strncmp(path, KSM_DIR "/", strlen(KSM_DIR "/"));
}

/* Readable files below @path that have to do with KSM by their name; says which. */
static unsigned int find_open(const char *path, bool named, unsigned int depth)
{
	unsigned int found = 0;
	struct dirent *entry;
	char next[512];
	DIR *dir = depth ? opendir(path) : NULL;

	while (dir && (entry = readdir(dir))) {
		bool ksm = named || strstr(entry->d_name, "ksm");

		if (entry->d_name[0] == '.' ||
		    snprintf(next, sizeof(next), "%s/%s", path, entry->d_name) >= (int)sizeof(next))
			continue;
		if (entry->d_type == DT_DIR) {
			found += find_open(next, ksm, depth - 1);
		} else if (ksm && entry->d_type == DT_REG && !is_known(next) &&
			   !try_to_open(next, O_RDONLY)) {
			printf("# %s can be read by anybody\n", next);
			found++;
		}
	}
	if (dir)
		closedir(dir);
	return found;
}

TEST_F(nobody, finds_nothing_of_the_engine_elsewhere)
{
	EXPECT_EQ(0, find_open("/sys", false, 6));
	EXPECT_EQ(0, find_open("/proc/sys", false, 6));
	EXPECT_EQ(-EACCES, try_to_open(COUNTS, O_RDONLY));
	EXPECT_EQ(-EACCES, try_to_open(DEBUGFS "/ksm/check", O_WRONLY));
	EXPECT_EQ(-EACCES, try_to_open(DEBUGFS "/ksm/checksum_mask", O_RDWR));
	EXPECT_EQ(-EACCES, try_to_open(DEBUGFS "/ksm/deny_sightings", O_RDWR));
	EXPECT_EQ(-EACCES, try_to_open(TRACEFS "/trace", O_RDONLY));
	EXPECT_EQ(-EACCES, try_to_open(TRACEFS "/events/ksm/enable", O_RDWR));
	EXPECT_EQ(-EACCES, try_to_open(TRACEFS "/events/ksm/ksm_enter/format", O_RDONLY));
	EXPECT_FALSE(mount_at("debugfs", DEBUGFS));
	EXPECT_FALSE(mount_at("tracefs", TRACEFS));
}

TEST_HARNESS_MAIN
