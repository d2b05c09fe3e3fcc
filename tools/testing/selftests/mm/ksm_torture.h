/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the parts of ksm_torture share. A worker is a line of processes, one life
 * after the other. Each process has an area of pages and a model of it: what each
 * page must hold. The model lies in memory that is shared by all processes, for
 * KSM never touches that.
 *
 * Operation number n of a process is drawn from the process's name and n alone,
 * and its name from the seed: what one operation meets does not change the next.
 */
#ifndef KSM_TORTURE_H
#define KSM_TORTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "kselftest.h"
#include "ksm_ring.h"

#define TORTURE_PAGES		1024	/* the largest area */
#define TORTURE_CONTENTS	256	/* what a page may hold; 0 is nothing but zeros */
#define TORTURE_VARIANTS	4	/* contents that differ in one word */
#define TORTURE_PROCS		20
#define TORTURE_OPS		64
#define TORTURE_KNOBS		32
#define TORTURE_LAST		6
#define TORTURE_PIPE		16	/* pages that fit into a pipe */
#define TORTURE_VECTOR		64	/* pages that are named one by one in a call */

/* Frames that may be taken out of service, for nothing brings them back. */
#define TORTURE_SOFT_OFFLINE	24

#define TORTURE_GROUP		"/sys/fs/cgroup/ksm_torture"

enum torture_state {
	TORTURE_RUNS,
	TORTURE_STOPS,		/* all processes come to an end */
	TORTURE_FAILED,		/* nothing matters any more */
};

/* Of a page. */
enum {
	PAGE_MAYBE	= 1,	/* holds either @content or @under */
	PAGE_NO_READ	= 2,	/* mprotect() may have shut it */
	PAGE_NO_WRITE	= 4,
	PAGE_PINNED	= 8,	/* what is read into the pinned buffer appears in it */
	PAGE_FILE	= 16,	/* of a private mapping of a file */
};

/**
 * struct torture_page - the model of a page
 * @content: what it holds
 * @under: what it holds when it is discarded: zeros, or a part of a file
 * @flags: PAGE_*
 * @held: what it held before, newest first; for the report
 * @last: the last operations, newest first, as index into torture_ops plus 1
 * @when: number of the newest of @last
 */
struct torture_page {
	uint8_t content;
	uint8_t under;
	uint8_t flags;
	uint8_t held[TORTURE_LAST];
	uint8_t last[TORTURE_LAST];
	uint32_t when;
};

/**
 * struct torture_proc - a process
 * @pid: the process, 0 if the slot is free, -1 if it is claimed
 * @worker: whose life it is
 * @name: what all its random numbers come from
 * @depth: 0 for a worker, 1 for its child and so on
 * @op: number of the operation that is under way
 * @kind: index of that operation
 * @may_die: that it is killed is no failure
 * @pages: size of the area
 * @page: the model
 */
struct torture_proc {
	pid_t pid;
	unsigned int worker;
	uint64_t name;
	unsigned int depth;
	uint32_t op;
	unsigned int kind;
	bool may_die;
	size_t pages;
	struct torture_page page[TORTURE_PAGES];
};

/**
 * struct torture_count - what became of operations of a kind
 * @done: they succeeded
 * @refused: the kernel could not, or would not: not now, or not here
 * @impossible: this kernel knows no such thing, or the machine has none
 * @longest: what the slowest took, milliseconds
 */
struct torture_count {
	unsigned long done;
	unsigned long refused;
	unsigned long impossible;
	unsigned long longest;
};

/**
 * struct torture - what all processes share
 * @state: whether to go on
 * @main: the process that the user started
 * @seed: where all random numbers come from
 * @panic: stop the machine when a page is wrong
 * @most: processes at a time
 * @self_test: change a page behind the model's back
 * @has_group: there is a memory cgroup at TORTURE_GROUP
 * @nodes: of NUMA, with memory
 * @offline: number of the memory block that is taken offline and back, or -1
 * @checker_found: KSM's data are not in order
 * @checker: calls of the checker
 * @ops: operations of all processes so far
 * @lives: processes so far
 * @killed: of these, killed
 * @given_up: of these, ended as their area could not be mended
 * @checked: pages that were compared with the model
 * @soft_offline: frames taken out of service
 * @count: per kind of operation
 * @knob: per knob
 * @proc: the processes
 */
struct torture {
	enum torture_state state;
	pid_t main;
	uint64_t seed;
	unsigned int most;
	bool panic;
	bool self_test;
	bool has_group;
	unsigned int nodes;
	int offline;
	bool checker_found;
	struct torture_count checker;
	unsigned long ops;
	unsigned long lives;
	unsigned long killed;
	unsigned long given_up;
	unsigned long checked;
	unsigned int soft_offline;
	struct torture_count count[TORTURE_OPS];
	struct torture_count knob[TORTURE_KNOBS];
	struct torture_proc proc[TORTURE_PROCS];
};

/**
 * struct torture_self - what a process has for itself
 * @proc: what the others know of it
 * @page: the model
 * @map: the area
 * @spare: as much address space, where nothing is
 * @pages: size of both
 * @random: state of the random numbers of this operation
 * @hopeless: the area has holes that cannot be mended: this life must end
 * @mem: /proc/self/mem
 * @uffd: userfaultfd, -1 if it was not opened yet
 * @uffd_async: it resolves write-protection by itself
 * @held: a pipe with pages in it, or -1
 * @ring: for buffers that are pinned
 * @pin_first: first page of that buffer
 * @pin_pages: its size, 0 if there is none
 */
struct torture_self {
	struct torture_proc *proc;
	struct torture_page *page;
	char *map;
	char *spare;
	size_t pages;
	uint64_t random;
	bool hopeless;
	int mem;
	int uffd;
	bool uffd_async;
	int held[2];
	struct ksm_ring ring;
	size_t pin_first;
	size_t pin_pages;
};

/**
 * struct torture_op - a kind of operation
 * @name: for people
 * @weight: how often it is drawn
 * @max: so many pages at most, 0 if it may be all
 * @job: does it to a range of pages; 0 or -errno
 * @arg: for @job
 */
struct torture_op {
	const char *name;
	unsigned int weight;
	unsigned int max;
	int (*job)(struct torture_self *self, size_t first, size_t count, int arg);
	int arg;
};

/* ksm_torture.c */
extern struct torture *torture;
extern int torture_file;	/* holds *@torture and the contents */

/* ksm_torture_model.c */
size_t torture_size(void);
void torture_count(struct torture_count *count, int error, uint64_t start);
void torture_list_count(const char *name, const struct torture_count *count);
off_t torture_content_offset(unsigned int content);
const char *torture_content(unsigned int content);
void torture_make_contents(void);
size_t torture_odd_word(unsigned int content);
uint64_t torture_mix(uint64_t a, uint64_t b);
uint64_t torture_random(uint64_t *state);
unsigned long torture_below(uint64_t *state, unsigned long limit);
char *torture_at(const struct torture_self *self, size_t page);
void torture_put(struct torture_self *self, size_t page, unsigned int content);
void torture_discard(struct torture_self *self, size_t page);
bool torture_check_page(struct torture_self *self, size_t page);
bool torture_check(struct torture_self *self, size_t first, size_t count);
__printf(1, 2) void torture_fail(const char *format, ...);
struct torture_proc *torture_claim(void);

/* ksm_torture_ops.c */
extern const struct torture_op torture_ops[];
extern const unsigned int torture_nr_ops;
int torture_neutral_advice(uint64_t *random);
int torture_discard_range(struct torture_self *self, size_t first, size_t count, int advice);

#define TORTURE_JOB(name)	\
	int torture_job_##name(struct torture_self *self, size_t first, size_t count, int arg)

/* ksm_torture_write.c */
bool torture_open_up(struct torture_self *self, size_t first, size_t count);
void torture_store(struct torture_self *self, size_t first, size_t count);
TORTURE_JOB(store);
TORTURE_JOB(store_same);
TORTURE_JOB(store_word);
TORTURE_JOB(process_vm);
TORTURE_JOB(written_by_child);
TORTURE_JOB(proc_mem);
TORTURE_JOB(read_file);
TORTURE_JOB(read_pipe);
TORTURE_JOB(pin);
TORTURE_JOB(unpin);
TORTURE_JOB(write_pinned);
TORTURE_JOB(vmsplice);

/* ksm_torture_remap.c */
TORTURE_JOB(map);
TORTURE_JOB(map_huge);
TORTURE_JOB(map_file);
TORTURE_JOB(move_away);
TORTURE_JOB(move_over);
TORTURE_JOB(uffd_copy);
TORTURE_JOB(uffd_zero);
TORTURE_JOB(uffd_protect);
TORTURE_JOB(uffd_move);

/* ksm_torture_life.c */
bool torture_fork(struct torture_self *self);
__noreturn void torture_live(struct torture_proc *proc);
void torture_start(unsigned int worker, unsigned int life);
void torture_reap(void);
bool torture_runs(void);

/* ksm_torture_knobs.c */
pid_t torture_turn_knobs(void);
pid_t torture_move_memory(void);
pid_t torture_watch_checker(void);
const char *torture_no_checker(void);
void torture_call_checker(void);
void torture_save_knobs(void);
bool torture_restore_knobs(void);
void torture_list_knobs(void);
bool torture_points_on(unsigned int rate);
void torture_points_off(void);

#endif
