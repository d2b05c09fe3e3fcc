/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the ksm_* tests share: KSM's settings, waiting for passes, pages of
 * known content, a look at the page frames behind them, worker processes.
 */
#ifndef KSM_UTIL_H
#define KSM_UTIL_H

#include <limits.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Equal pages that nobody writes to are merged within so many full passes. */
#define KSM_MERGE_PASSES	4

/* Every page is hashed once in so many passes, whatever its page table says. */
#define KSM_REFRESH_PASSES	256
/* Likewise of passes that are in no hurry, as most are where nothing happens. */
#define KSM_REFRESH_CALM	64

/*
 * A slow or busy machine is no failure of KSM: what is waited for is given up when
 * nothing has moved for so long ...
 */
#define KSM_STILL_SECONDS	120

/* ... or when there were so many passes without it, and time enough for any back-off. */
#define KSM_VAIN_PASSES		1000
#define KSM_VAIN_SECONDS	20

/* The harness ends a test after so many seconds, so that one that hangs is named. */
#define KSM_TEST_SECONDS	1200
#ifdef TEST_TIMEOUT_DEFAULT
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	KSM_TEST_SECONDS
#endif

/* That nothing happens can only be seen by looking on for a while. */
#define KSM_QUIET_MILLISECS	200

#define KSM_MAX_WORKERS		16
#define KSM_MAX_SETTINGS	16

/* No such file, or no such line in it. */
#define KSM_NONE		LONG_MIN

struct ksm_worker;

/* What a worker is asked to do; runs in the worker. Negative errno, or a result. */
typedef long (*ksm_job)(struct ksm_worker *worker, long a, long b, long c);

/**
 * struct ksm_worker - a process that works on memory of its own on request
 * @pid: the process, 0 if there is none
 * @map: its memory, at the same address in each worker that inherited it
 * @pages: size of @map
 * @asked: posted by the test when a job is set
 * @answered: posted by the worker when @result is set
 */
struct ksm_worker {
	pid_t pid;
	char *map;
	size_t pages;
	sem_t asked;
	sem_t answered;
	ksm_job job;
	long arg[3];
	long result;
};

/**
 * struct ksm_test - what a test changes in the system, and must put back
 * @saved: the settings as they were found, one string for each
 * @workers: the test's processes
 *
 * Lives in a fixture with FIXTURE_TEARDOWN_PARENT, and so in memory that the
 * test shares with all its workers.
 */
struct ksm_test {
	char saved[KSM_MAX_SETTINGS][32];
	struct ksm_worker workers[KSM_MAX_WORKERS];
};

/* Settings and counters in /sys/kernel/mm/ksm. */
const char *ksm_missing(void);
const char *ksm_no_dirty_bit(void);
bool ksm_check(void);
bool ksm_begin(struct ksm_test *test);
bool ksm_end(struct ksm_test *test);

int ksm_set(const char *name, const char *value);
int ksm_set_number(const char *name, unsigned long value);
int ksm_get_text(const char *name, char *text, size_t size);
long ksm_get(const char *name);

/**
 * struct ksm_wait - what was seen while something was waited for; begins as all zero
 * @begun: when, in milliseconds
 * @looked: when ksmd's counters were read last
 * @moved: when they were seen to have moved last
 * @scans: full_scans at the beginning
 * @scanned: pages_scanned when they were read last
 * @own: the caller's own figure, likewise
 */
struct ksm_wait {
	uint64_t begun;
	uint64_t looked;
	uint64_t moved;
	long scans;
	long scanned;
	long own;
};

/* Waiting. */
void ksm_pause(void);
uint64_t ksm_now_millisecs(void);
uint64_t ksm_tick_millisecs(void);
bool ksm_may_wait(struct ksm_wait *wait, long own);
bool ksm_wait_passes(unsigned int passes);
pid_t ksm_ksmd(void);
bool ksm_one_pass(void);
bool ksm_pass_by(unsigned int passes);

#define ksm_wait_until(condition)					\
({									\
	struct ksm_wait __wait = { 0 };					\
	bool __met;							\
									\
	while (!(__met = (condition)) && ksm_may_wait(&__wait, 0))	\
		ksm_pause();						\
	__met;								\
})

/* Did @condition hold all the time that was waited for something to break it? */
#define ksm_stays(condition)						\
({									\
	uint64_t __end = ksm_now_millisecs() + KSM_QUIET_MILLISECS;	\
	bool __held;							\
									\
	while ((__held = (condition)) && ksm_now_millisecs() < __end)	\
		ksm_pause();						\
	__held;								\
})

/* Starts ksmd and waits until all that can be merged is. */
bool ksm_merge_all(void);

/* Memory, and whether it takes part; 0 or -errno. */
char *ksm_map_pages(size_t pages);
char *ksm_map_registered(size_t pages);
char *ksm_map_fenced(size_t pages);
char *ksm_map_huge(size_t size);
bool ksm_is_huge(const char *map, size_t size);
int ksm_open_uffd(char *map, size_t pages, uint64_t features, uint64_t mode);
int ksm_mergeable(char *map, size_t pages);
int ksm_unmergeable(char *map, size_t pages);
int ksm_set_merge_any(unsigned long on);
int ksm_get_merge_any(void);

/*
 * Pages of known content. Page i holds content number seed + i * step: a step
 * of 0 makes all pages equal, any other makes all different.
 */
void ksm_fill(char *map, size_t pages, uint64_t seed, uint64_t step);
long ksm_first_wrong(const char *map, size_t pages, uint64_t seed, uint64_t step);

/* Page frames; 0 is the PFN of a page that is not present. */
uint64_t ksm_pagemap(pid_t pid, const void *addr);
uint64_t ksm_page_flags(unsigned long pfn);
unsigned long ksm_pfn(pid_t pid, const void *addr);
size_t ksm_count_present(pid_t pid, const char *map, size_t pages);
size_t ksm_count_merged(pid_t pid, const char *map, size_t pages);
size_t ksm_count_frames(pid_t pid, const char *map, size_t pages);
size_t ksm_count_marked(pid_t pid, const char *map, size_t pages, uint64_t bit);

/* Figures in /proc. */
int ksm_read_text(const char *path, char *text, size_t size);
int ksm_write_text(const char *path, const char *text);
long ksm_number_in(const char *path, const char *name);
long ksm_vmstat(const char *name);
long ksm_meminfo(const char *name);
long ksm_proc_stat(pid_t pid, const char *name);
bool ksm_proc_says(pid_t pid, const char *line);
long ksm_smaps(pid_t pid, const void *addr, const char *name);
bool ksm_vma_flags(pid_t pid, const void *addr, char *text, size_t size);
bool ksm_vma_is_mergeable(pid_t pid, const void *addr);

/* Workers. */
bool ksm_fork_worker(struct ksm_test *test, unsigned int who, char *map, size_t pages);
long ksm_send(struct ksm_worker *worker, ksm_job job, long a, long b, long c);
long ksm_receive(struct ksm_worker *worker);
long ksm_ask(struct ksm_worker *worker, ksm_job job, long a, long b, long c);
bool ksm_end_worker(struct ksm_worker *worker);
long ksm_job_fill(struct ksm_worker *worker, long seed, long step, long unused);
long ksm_job_first_wrong(struct ksm_worker *worker, long seed, long step, long unused);
long ksm_job_advise(struct ksm_worker *worker, long advice, long unused, long unused2);

#endif
