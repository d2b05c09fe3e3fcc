// SPDX-License-Identifier: GPL-2.0-only
/* Settings, memory and workers; see ksm_util.h. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "ksm_util.h"
#include "vm_util.h"

#define KSM_DIR "/sys/kernel/mm/ksm/"
#define KSM_CHECK "/sys/kernel/debug/ksm/check"

/*
 * What tests run with, so that the number of passes until pages merge can be
 * foretold. A file that the kernel does not have is left out. Set from first to
 * last and put back from last to first: a change of advisor_mode also changes
 * pages_to_scan.
 */
static const struct {
	const char *name;
	const char *value;
} test_settings[] = {
	{ "run",				"0" },
	{ "advisor_mode",			"none" },
	{ "advisor_max_cpu",			NULL },
	{ "advisor_min_pages_to_scan",		NULL },
	{ "advisor_max_pages_to_scan",		NULL },
	{ "advisor_target_scan_time",		NULL },
	{ "pages_to_scan",			"10000" },
	{ "sleep_millisecs",			"1" },
	{ "smart_scan",				"0" },
	{ "use_zero_pages",			"0" },
	{ "merge_across_nodes",			"1" },
	{ "max_page_sharing",			"256" },
	{ "stable_node_chains_prune_millisecs",	"2000" },
};

/* A choice is shown as "none [chosen] other". */
static void keep_chosen(char *text)
{
	char *from = strchr(text, '[');
	char *to = strchr(text, ']');

	if (from && to > from) {
		*to = '\0';
		memmove(text, from + 1, to - from);
	}
}

const char *ksm_missing(void)
{
	if (geteuid() != 0)
		return "needs root: sets /sys/kernel/mm/ksm and reads page frame numbers";
	if (access(KSM_DIR "run", F_OK))
		return "this kernel has no KSM (/sys/kernel/mm/ksm/run)";
	if (access("/proc/kpageflags", F_OK))
		return "this kernel has no /proc/kpageflags";
	return NULL;
}

/**
 * ksm_write_text - write to a file of the kernel's
 * @path: the file
 * @text: to be taken at once
 *
 * Return: 0 or -errno.
 */
int ksm_write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_TRUNC), error;

	if (fd < 0)
		return -errno;
	error = write(fd, text, strlen(text)) < 0 ? -errno : 0;
	close(fd);
	return error;
}

int ksm_set(const char *name, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), KSM_DIR "%s", name);
	return ksm_write_text(path, value);
}

/* A setting as it would be written: without line end, and of a choice what is chosen. */
int ksm_get_text(const char *name, char *text, size_t size)
{
	char path[128];
	int error;

	snprintf(path, sizeof(path), KSM_DIR "%s", name);
	error = ksm_read_text(path, text, size);
	if (error)
		return error;
	text[strcspn(text, "\n")] = '\0';
	keep_chosen(text);
	return 0;
}

int ksm_set_number(const char *name, unsigned long value)
{
	char text[32];

	snprintf(text, sizeof(text), "%lu", value);
	return ksm_set(name, text);
}

long ksm_get(const char *name)
{
	char path[128], text[64];

	snprintf(path, sizeof(path), KSM_DIR "%s", name);
	if (ksm_read_text(path, text, sizeof(text)))
		return KSM_NONE;
	return strtol(text, NULL, 10);
}

/* Sets what the test cannot go on without; says so if it is refused. */
static bool must_set(const char *name, const char *value)
{
	int error = ksm_set(name, value);

	if (error)
		fprintf(stderr, "# %s: '%s' is refused: %s\n", name, value, strerror(-error));
	return !error;
}

/**
 * ksm_no_dirty_bit - does ksmd learn of writes without hashing?
 *
 * Return: why not, or NULL where hardware sets the dirty bit.
 */
const char *ksm_no_dirty_bit(void)
{
#if defined(__x86_64__) || defined(__i386__)
	return NULL;
#else
	return "KSM does not use the dirty bit of this architecture";
#endif
}

/**
 * ksm_check - let the kernel check what it has written down against what is
 *
 * Return: false if it found a disagreement; true if all is right, or if this kernel
 * has no checker.
 */
bool ksm_check(void)
{
	int error = ksm_write_text(KSM_CHECK, "1");

	if (error && error != -ENOENT)
		fprintf(stderr, "# " KSM_CHECK ": %s\n", strerror(-error));
	/* There may be no memory for it. */
	return error != -EUCLEAN;
}

/**
 * ksm_begin - note the settings, unmerge everything, set what tests run with
 * @test: where to note them
 *
 * Return: false if a setting was refused. ksmd is off afterwards.
 */
bool ksm_begin(struct ksm_test *test)
{
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	for (size_t i = 0; i < ARRAY_SIZE(test_settings); i++) {
		if (ksm_get_text(test_settings[i].name, test->saved[i], sizeof(test->saved[i])))
			test->saved[i][0] = '\0';
	}
	if (!must_set("run", "2"))
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(test_settings); i++) {
		if (test->saved[i][0] && test_settings[i].value &&
		    !must_set(test_settings[i].name, test_settings[i].value))
			return false;
	}
	return true;
}

/**
 * ksm_end - end the workers, unmerge everything, put the settings back
 * @test: what ksm_begin() noted
 *
 * Return: false if a worker would not die or a setting was refused.
 */
bool ksm_end(struct ksm_test *test)
{
	bool good = true;

	for (unsigned int i = 0; i < KSM_MAX_WORKERS; i++)
		good &= ksm_end_worker(&test->workers[i]);
	good &= ksm_check();
	good &= must_set("run", "2");
	good &= ksm_check();
	/* Refuses pages_to_scan while it is on; not there in all kernels. */
	ksm_set("advisor_mode", "none");
	for (size_t i = ARRAY_SIZE(test_settings); i-- > 0;) {
		if (test->saved[i][0])
			good &= must_set(test_settings[i].name, test->saved[i]);
	}
	return good;
}

char *ksm_map_pages(size_t pages)
{
	char *map = mmap(NULL, pages * psize(), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return map == MAP_FAILED ? NULL : map;
}

char *ksm_map_registered(size_t pages)
{
	char *map = ksm_map_pages(pages);

	return map && !ksm_mergeable(map, pages) ? map : NULL;
}

/* Pages between two that can never be joined to them. */
char *ksm_map_fenced(size_t pages)
{
	char *fence = mmap(NULL, (pages + 2) * psize(), PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (fence == MAP_FAILED)
		return NULL;
	if (mprotect(fence + psize(), pages * psize(), PROT_READ | PROT_WRITE))
		return NULL;
	return fence + psize();
}

/**
 * ksm_map_huge - a huge page in a mapping of its own
 * @size: of a huge page, in bytes
 *
 * khugepaged is kept from putting together again what is split.
 *
 * Return: NULL if there can be none; whether there is one, ksm_is_huge() tells.
 */
char *ksm_map_huge(size_t size)
{
	char *map = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (map == MAP_FAILED)
		return NULL;
	map = (char *)(((uintptr_t)map + size - 1) & ~(size - 1));
	if (madvise(map, size, MADV_HUGEPAGE))
		return NULL;
	*(volatile char *)map = 1;
	return madvise(map, size, MADV_NOHUGEPAGE) ? NULL : map;
}

bool ksm_is_huge(const char *map, size_t size)
{
	return ksm_smaps(getpid(), map, "AnonHugePages") * 1024 == (long)size;
}

/* A userfaultfd on all of @map, or -1 if the kernel has not what is asked for. */
int ksm_open_uffd(char *map, size_t pages, uint64_t features, uint64_t mode)
{
	struct uffdio_register range = {
		.range = { .start = (uintptr_t)map, .len = pages * psize() },
		.mode = mode,
	};
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return -1;
	if (!ioctl(fd, UFFDIO_API, &api) && (api.features & features) == features &&
	    !ioctl(fd, UFFDIO_REGISTER, &range))
		return fd;
	close(fd);
	return -1;
}

int ksm_mergeable(char *map, size_t pages)
{
	return madvise(map, pages * psize(), MADV_MERGEABLE) ? -errno : 0;
}

int ksm_unmergeable(char *map, size_t pages)
{
	return madvise(map, pages * psize(), MADV_UNMERGEABLE) ? -errno : 0;
}

int ksm_set_merge_any(unsigned long on)
{
	return prctl(PR_SET_MEMORY_MERGE, on, 0, 0, 0) ? -errno : 0;
}

int ksm_get_merge_any(void)
{
	return prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0);
}

/* One to one, so words at different places or of different content differ. */
static uint64_t content_word(uint64_t content, size_t index)
{
	uint64_t x = (content << 16) + index + 1;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

void ksm_fill(char *map, size_t pages, uint64_t seed, uint64_t step)
{
	const size_t words = psize() / sizeof(uint64_t);

	for (size_t i = 0; i < pages; i++) {
		uint64_t *word = (uint64_t *)(map + i * psize());

		for (size_t j = 0; j < words; j++)
			word[j] = content_word(seed + i * step, j);
	}
}

/**
 * ksm_first_wrong - check the content of every page
 * @map: the first page
 * @pages: how many
 * @seed: content number of the first page
 * @step: added for each page
 *
 * Return: -1 if each word is as ksm_fill() wrote it, else the index of the
 * first page that is wrong.
 */
long ksm_first_wrong(const char *map, size_t pages, uint64_t seed, uint64_t step)
{
	const size_t words = psize() / sizeof(uint64_t);

	for (size_t i = 0; i < pages; i++) {
		const uint64_t *word = (const uint64_t *)(map + i * psize());

		for (size_t j = 0; j < words; j++)
			if (word[j] != content_word(seed + i * step, j))
				return i;
	}
	return -1;
}

/* Serves until it is killed. */
static void serve(struct ksm_worker *worker)
{
	for (;;) {
		if (sem_wait(&worker->asked))
			continue;
		worker->result = worker->job(worker, worker->arg[0],
					     worker->arg[1], worker->arg[2]);
		sem_post(&worker->answered);
	}
}

/**
 * ksm_fork_worker - start a process that does jobs
 * @test: where it is listed
 * @who: its number, below KSM_MAX_WORKERS
 * @map: the caller's memory that it is to go on with, or NULL for new memory
 * @pages: size of that memory
 *
 * A worker may call this too, in a job.
 *
 * Return: false if there is no such process now.
 */
bool ksm_fork_worker(struct ksm_test *test, unsigned int who, char *map, size_t pages)
{
	struct ksm_worker *worker = &test->workers[who];
	pid_t pid;

	worker->map = map;
	worker->pages = pages;
	if (sem_init(&worker->asked, 1, 0) || sem_init(&worker->answered, 1, 0))
		return false;
	pid = fork();
	if (pid < 0)
		return false;
	if (pid) {
		worker->pid = pid;
		return map || ksm_wait_until(worker->map);
	}
	if (!map)
		worker->map = ksm_map_pages(pages);
	serve(worker);
	return false;
}

/**
 * ksm_send - let a worker do something
 * @worker: the worker
 * @job: what to do
 * @a: first argument of @job
 * @b: second
 * @c: third
 *
 * Must be followed by ksm_receive().
 *
 * Return: 0 or -errno.
 */
long ksm_send(struct ksm_worker *worker, ksm_job job, long a, long b, long c)
{
	worker->job = job;
	worker->arg[0] = a;
	worker->arg[1] = b;
	worker->arg[2] = c;
	return sem_post(&worker->asked) ? -errno : 0;
}

static bool answers_in_time(struct ksm_worker *worker)
{
	struct timespec limit;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += KSM_STILL_SECONDS;
	while (sem_timedwait(&worker->answered, &limit))
		if (errno != EINTR)
			return false;
	return true;
}

/* Of a process; -1 if there is none. */
static long cpu_millisecs(pid_t pid)
{
	struct timespec spent;
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &spent))
		return -1;
	return spent.tv_sec * 1000 + spent.tv_nsec / 1000000;
}

/**
 * ksm_receive - wait until a worker has done what it was asked to do
 * @worker: the worker
 *
 * Return: what the job returned, or -ETIMEDOUT if the worker does not get on.
 */
long ksm_receive(struct ksm_worker *worker)
{
	long spent = -1, before;

	do {
		before = spent;
		if (answers_in_time(worker))
			return worker->result;
		spent = cpu_millisecs(worker->pid);
	} while (spent > before);
	return -ETIMEDOUT;
}

long ksm_ask(struct ksm_worker *worker, ksm_job job, long a, long b, long c)
{
	long error = ksm_send(worker, job, a, b, c);

	return error ? error : ksm_receive(worker);
}

/**
 * ksm_end_worker - kill a worker and wait until its memory is gone
 * @worker: the worker, which need not be a child of the caller
 *
 * Return: whether it is gone.
 */
bool ksm_end_worker(struct ksm_worker *worker)
{
	struct pollfd end = { .events = POLLIN };
	bool gone;

	if (!worker->pid)
		return true;
	end.fd = syscall(SYS_pidfd_open, worker->pid, 0);
	if (end.fd < 0) {
		gone = errno == ESRCH;
	} else {
		kill(worker->pid, SIGKILL);
		gone = poll(&end, 1, KSM_STILL_SECONDS * 1000) == 1;
		if (!gone)
			fprintf(stderr, "# worker %d does not die\n", worker->pid);
		close(end.fd);
		waitpid(worker->pid, NULL, 0);
	}
	worker->pid = 0;
	return gone;
}

long ksm_job_fill(struct ksm_worker *worker, long seed, long step, long unused)
{
	ksm_fill(worker->map, worker->pages, seed, step);
	return 0;
}

long ksm_job_first_wrong(struct ksm_worker *worker, long seed, long step, long unused)
{
	return ksm_first_wrong(worker->map, worker->pages, seed, step);
}

long ksm_job_advise(struct ksm_worker *worker, long advice, long unused, long unused2)
{
	return madvise(worker->map, worker->pages * psize(), advice) ? -errno : 0;
}
